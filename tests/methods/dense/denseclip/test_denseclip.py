"""DenseCLIP: the loss of a batch as sums over its images, learning rates, and its presets."""

import pytest
import torch
from tests.factories import AT, make_method

from diptych.data.loader import Loader
from diptych.errors import InputError
from diptych.methods.dense.denseclip import DenseCLIP
from diptych.testing import Toy
from diptych.training import optim
from diptych.training.schedule import factor

VIT = "vit:image_size=32:patch=8:width=32:depth=4:heads=2"
SMALL = {"width": 16, "inner": 16, "decoder_width": 16, "dropout": 0.0}


def begun(**config):
    made = make_method("denseclip", image=VIT, **{**SMALL, **config})
    source = Toy(6, ["images.main", "masks.class"])
    made.setup({"train": source})
    [stage] = made.stages()
    loader = Loader(source, made.views(stage), stage.plan, 6, steps=1)
    return made.eval(), stage, next(iter(loader.epoch(0)))


def test_the_loss_is_the_mean_over_all_pixels_with_a_class():
    made, _, batch = begun()
    batch.fields["mask"][0, :20] = 255
    with torch.no_grad():
        features = made.encode(batch, AT)
        losses = made.loss(features, batch, AT)
        logits, scores = made.model(batch.image.flat)
        labels = batch.fields["mask"].long()

        def mean(maps):
            large = torch.nn.functional.interpolate(maps, (32, 32), mode="bilinear")
            return torch.nn.functional.cross_entropy(large, labels, ignore_index=255)

        torch.testing.assert_close(losses.terms["pixels"], mean(logits))
        torch.testing.assert_close(losses.terms["scores"], 0.4 * mean(scores / 0.07))
    assert features["count"].shape == (6,)
    assert len(features["count"].unique()) > 1
    assert 0 <= float(losses.logged["accuracy"]) <= 1


def test_a_batch_without_classes_has_no_loss():
    made, _, batch = begun()
    batch.fields["mask"].fill_(255)
    losses = made.loss(made.encode(batch, AT), batch, AT)
    assert float(losses.total.detach()) == 0
    losses.total.backward()
    assert all(
        bool(torch.isfinite(each.grad).all()) for each in made.parameters() if each.grad is not None
    )


def test_the_image_tower_learns_slowly_and_the_text_tower_not_at_all():
    made, stage, _ = begun()
    optim.freeze(made, stage.lr_scale)
    rates = {
        name: optim.scale_of(name, stage.lr_scale)
        for name, parameter in made.named_parameters()
        if parameter.requires_grad
    }
    assert not any(
        name.startswith(("model.encoder.text", "model.encoder.logit_scale")) for name in rates
    )
    slow = {name for name, rate in rates.items() if rate == 0.1}
    assert slow == {name for name in rates if name.startswith("model.encoder.image")}
    assert slow
    assert {"model.context", "model.gamma", "model.head.classify.weight"} <= rates.keys() - slow


def test_the_published_recipe():
    preset = DenseCLIP.presets["paper"]
    recipe = preset.recipe
    config = DenseCLIP.configure(preset.config)
    assert (config.tau, config.n_ctx, config.weight, config.backbone_rate) == (
        0.07,
        8,
        0.4,
        0.1,
    )
    assert (config.decoder_width, config.decoder_heads, config.decoder_depth, config.dropout) == (
        256,
        4,
        3,
        0.1,
    )
    assert (config.context, config.context_std, config.size, config.norm) == (
        "post",
        1.0,
        640,
        "batch",
    )
    rates = [
        recipe.lr
        * factor(step, 80_000, schedule=recipe.schedule, warmup=1500, min_lr=recipe.min_lr)
        for step in (1500, 40_750, 79_999)
    ]
    assert rates == pytest.approx([1e-4, 1e-6 + 0.99e-4 * 0.5**0.9, 1e-6], rel=5e-3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"augment": {"scales": [1, 2]}}, "scales"),
        ({"context": "both"}, "context"),
        ({"tau": 0.0}, "tau"),
        ({"decoder_heads": 3}, "heads"),
    ],
)
def test_bad_options_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        make_method("denseclip", image=VIT, **{**SMALL, **config})
