"""Fine-tuning and LoRA: what learns at which rate, and that both begin as zero-shot."""

import pytest
import torch
from tests.factories import random_images
from tests.methods.adapt.helpers import learnt, method, zero_shot

from diptych.errors import InputError
from diptych.methods.adapt.lora import LoRA
from diptych.methods.adapters import merged
from diptych.methods.tuning import layer_rates
from diptych.training import optim


def test_running_statistics_go_back_as_weights_do():
    made = method("wise_ft", image="timm:test_resnet:image_size=32", decay=1.0, alpha=0.0)
    start = made.before.module.state_dict()
    assert any("running" in name for name in start)
    with torch.no_grad():
        for value in made.model.encoder.state_dict().values():
            value.add_(1)
    made.mix(None)
    for name, value in made.model.encoder.state_dict().items():
        torch.testing.assert_close(
            value, start[name] if value.is_floating_point() else start[name] + 1, msg=name
        )


@pytest.mark.parametrize("name", ["fine_tune", "lora"])
def test_the_first_step_is_zero_shot(name):
    made = method(name)
    with torch.no_grad():
        torch.testing.assert_close(
            made.model.text_features(), zero_shot(made), atol=1e-5, rtol=1e-5
        )


def test_rates_fall_from_block_to_block_and_texts_stay():
    made = method("fine_tune", decay=0.5)
    [stage] = made.stages()
    optim.freeze(made, stage.lr_scale)
    groups = optim.build(made, made.presets["small"].recipe, stage.lr_scale).param_groups
    rates = {name: group["multiplier"] for group in groups for name in group["names"]}
    assert {
        rates[f"model.encoder.image.transformer.layers.{at}.attn.q.weight"] for at in range(3)
    } == {0.25, 0.5, 1.0}
    assert rates["model.encoder.image.positions"] == 0.125
    assert (
        rates["model.encoder.image.norm.weight"]
        == rates["model.encoder.image_projection.weight"]
        == 1.0
    )
    assert not any("text" in name or "scale" in name for name in rates)
    both = method("fine_tune", decay=0.5, text=True)
    [stage] = both.stages()
    optim.freeze(both, stage.lr_scale)
    assert both.model.encoder.text.positions.requires_grad
    assert stage.lr_scale["model.encoder.text"] == 0.125


def test_lora_learns_two_thin_matrices_a_layer():
    made = method("lora", r=4, layers="q+v")
    image, text = 3 * 2 * 4 * (64 + 64), 3 * 2 * 4 * (32 + 32)
    assert learnt(made) == image + text
    assert learnt(method("lora", r=4, layers="q+v", towers="image")) == image
    made.train()
    torch.nn.functional.cross_entropy(
        made.model(random_images(3)), torch.tensor([0, 1, 2])
    ).backward()
    moved = {name for name, p in made.named_parameters() if p.grad is not None}
    assert moved
    assert all("lora_" in name for name in moved)


def test_the_same_rate_everywhere_asks_nothing_of_a_tower():
    assert layer_rates("model.encoder.image", torch.nn.Linear(2, 2), 1.0) == {}
    with pytest.raises(InputError, match="set decay=1"):
        layer_rates("model.encoder.image", torch.nn.Linear(2, 2), 0.5)


def test_adding_the_products_to_the_weights_changes_no_logit():
    made = method("lora", r=4)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
        before = made.model(random_images())
        made.make.adapter = None
        plain = LoRA.of(made.config, made.make).eval()
        plain.model.set_classes(made.model.classes)
        plain.model.load_state_dict(merged(made.model.state_dict(), made.config))
        torch.testing.assert_close(plain.model(random_images()), before, atol=1e-3, rtol=1e-4)


def test_texts_that_no_step_changes_are_encoded_once_in_training():
    for name, config, times in (
        ("fine_tune", {}, 1),
        ("fine_tune", {"text": True}, 3),
        ("coop", {}, 3),
    ):
        made, calls = method(name, **config).train(), []
        encode = made.model.encoder.encode_text
        made.model.encoder.encode_text = lambda *args, encode=encode, calls=calls, **how: (
            calls.append(1) or encode(*args, **how)
        )
        with torch.no_grad():
            made.model(random_images())  # as gradient caching looks ahead: nothing of it is kept
        calls.clear()
        for _ in range(3):
            made.model(random_images())
        assert len(calls) == times, name
        made.model.set_classes(["one", "two"])
        assert made.model(random_images()).shape == (4, 2)


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("fine_tune", {"decay": 0.0}, "'decay' of method FineTune is 0.0"),
        ("lora", {"r": 0}, "'r' of method LoRA is 0"),
        ("lora", {"towers": "image+words"}, "join image and text"),
        ("lora", {"layers": "query"}, "no linear layer 'query'; there are"),
    ],
)
def test_bad_options_are_refused(name, config, said):
    with pytest.raises(InputError, match=said):
        method(name, **config)


def test_wise_ft_goes_back_to_where_its_alpha_says():
    made = method("wise_ft", alpha=0.25)
    name = "image_projection.weight"
    start = made.model.encoder.state_dict()[name].clone()
    with torch.no_grad():
        for parameter in made.model.encoder.parameters():
            parameter.add_(1.0)
    end = made.model.encoder.state_dict()[name].clone()
    train, mix = made.stages()
    assert (train.optimize, mix.optimize) == (True, False)
    mix.prepare(None)
    torch.testing.assert_close(made.model.encoder.state_dict()[name], 0.75 * start + 0.25 * end)
    with pytest.raises(InputError, match="'alpha' of method WiSEFT is 2.0"):
        method("wise_ft", alpha=2.0)
