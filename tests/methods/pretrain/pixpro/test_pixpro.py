"""PixPro: the loss by loops over what its towers give, the momentum copy, the pyramid and the
instance branch, what is logged, refusals, and the commands."""

import json
import math
from dataclasses import replace

import pytest
import torch
from tests.factories import AT, make_batch, make_method
from torch.nn.functional import cosine_similarity, normalize

import diptych
from diptych.cli import main
from diptych.data.views import Augment
from diptych.errors import InputError
from diptych.methods.make import NO_TOWER, Make
from diptych.methods.registry import method_class
from diptych.models.model import evaluating
from diptych.testing import Toy
from diptych.towers.nn.parts import cosine_momentum
from diptych.training.step import Step, freeze_modes

CONV = "conv:image_size=32:widths=(8,16):depths=(1,1)"  # a map of 4 x 4
VIT = "vit:image_size=32:patch=8:width=16:depth=1:heads=1:registers=1"
WHOLE = (0.0, 0.0, 1.0, 1.0)
SHIFTED = (0.11, 0.23, 0.87, 0.96)  # no distance is a tie
MIRRORED = (0.87, 0.23, 0.11, 0.96)
APART = ((0.0, 0.0, 0.2, 0.2), (0.8, 0.8, 1.0, 1.0))
HEADS = {"projector": "mlp:hidden=16", "predictor": "mlp:hidden=16"}


def held(image=CONV, **config):
    return make_method(
        "pixpro", image=image, text=NO_TOWER, embed_dim=8, **HEADS, **config
    ).double()


def batch_of(*crops, seed=0, size=32):
    """Two views for each pair of crops."""
    fields = {"main.crops": torch.tensor(crops, dtype=torch.float64)}
    return make_batch(len(crops), {"main": 2}, size=size, seed=seed, **fields)


BATCH = batch_of((WHOLE, SHIFTED), (WHOLE, MIRRORED), APART)


def losses_of(method, batch=BATCH):
    return Step(method, "float32").loss(method.encode(batch, AT), batch, AT)


def disturb(method):
    """Weights of the copy that are not those of the model."""
    with torch.no_grad():
        for parameter in method.slow.module.parameters():
            parameter.mul_(1.1).add_(0.01)


def near(crops, side):
    """The pairs of one image by loops, in both directions of a square map."""
    found = []
    cells = []
    for x0, y0, x1, y1 in crops:
        w, h = (x1 - x0) / side, (y1 - y0) / side
        centres = [
            (x0 + (c + 0.5) * w, y0 + (r + 0.5) * h) for r in range(side) for c in range(side)
        ]
        cells.append((centres, math.hypot(w, h)))
    (mine, d), (theirs, e) = cells
    for p, centre in enumerate(mine):
        found += [
            (p, q) for q, other in enumerate(theirs) if math.dist(centre, other) / max(d, e) < 0.7
        ]
    return found


def slow_consistency(method, maps, targets, crops, side):
    """The loss of one image by loops over positions, both directions."""
    pairs = near(crops, side)
    total = 0.0
    for way, (z, target) in enumerate(((maps[0], targets[1]), (maps[1], targets[0]))):
        values = normalize(method.propagation.transform(z), dim=1)
        unit = normalize(z, dim=1)
        y = torch.stack(
            [
                sum(max(float(unit[p] @ unit[q]), 0) ** 2 * values[q] for q in range(len(z)))
                for p in range(len(z))
            ]
        )
        cosines = [cosine_similarity(y[pair[way]], target[pair[1 - way]], dim=0) for pair in pairs]
        total += -2 * float(sum(cosines)) / (len(pairs) + 1e-6)
    return total


@pytest.mark.parametrize("image", [CONV, VIT])
def test_the_loss_is_that_of_loops_over_the_maps(image):
    method = held(image)
    disturb(method)
    with torch.no_grad():
        found = losses_of(method)
        views = BATCH.image.pixels.unbind(1)
        online = [
            method.model.project_image(method.model.encode_image(view).patches) for view in views
        ]
        slow = method.slow.module["model"]
        target = [slow.project_image(slow.encode_image(view).patches) for view in views]
        each = [
            slow_consistency(
                method,
                [view[row] for view in online],
                [view[row] for view in target],
                crops.tolist(),
                4,
            )
            for row, crops in enumerate(BATCH.fields["main.crops"])
        ]
    assert each[2] == 0  # of the crops apart, which stay in the mean
    assert found.total.item() == pytest.approx(sum(each) / 3, abs=1e-10)
    unit = normalize(torch.cat(online), dim=-1).flatten(0, 1)
    assert found.logged["feature_std"].item() == pytest.approx(
        unit.std(0, unbiased=False).mean().item(), abs=1e-10
    )
    counts = [len(near(crops.tolist(), 4)) / 16 for crops in BATCH.fields["main.crops"]]
    assert found.logged["positives"].item() == pytest.approx(sum(counts) / 3)
    assert found.logged["without_positives"].item() == pytest.approx(1 / 3)


def test_contrast_has_no_propagation_and_is_the_mean_of_both_directions():
    method = held(objective="contrast")
    assert not list(method.propagation.parameters())
    same = batch_of((WHOLE, WHOLE))
    with torch.no_grad():
        x1, x2 = (
            normalize(method.model.project_image(method.model.encode_image(view).patches)[0], dim=1)
            for view in same.image.pixels.unbind(1)
        )
        found = losses_of(method, same)
    # of equal crops the positives are the same positions; the copy is that of the start
    sides = [torch.log_softmax(a @ b.T / 0.3, 1).diagonal().mean() for a, b in ((x1, x2), (x2, x1))]
    assert found.terms["contrast"].item() == pytest.approx(-sum(sides).item() / 2, abs=1e-10)


def test_the_instance_branch_pools_the_predictions_of_positions():
    method = held(instance=0.5)
    disturb(method)
    with torch.no_grad():
        found = losses_of(method)
        views = BATCH.image.pixels.unbind(1)
        online = [
            method.predictor(method.heads["instance"](method.model.encode_image(v).patches)).mean(1)
            for v in views
        ]
        slow = method.slow.module
        target = [
            slow["heads"]["instance"](slow["model"].encode_image(v).patches).mean(1) for v in views
        ]
    cosines = [cosine_similarity(online[a], target[1 - a]).mean() for a in (0, 1)]
    assert found.terms["instance"].item() == pytest.approx(
        0.5 * -2 * sum(cosines).item(), abs=1e-10
    )
    assert found.total.item() == pytest.approx(sum(term.item() for term in found.terms.values()))


def test_levels_of_the_pyramid_have_the_same_loss_on_their_own_grids():
    method = held(levels=2, channels=8)
    with torch.no_grad():
        found = losses_of(method)
        views = BATCH.image.pixels.unbind(1)
        levels = [method.model.encode_image(view).levels for view in views]
        by_hand = []
        for number, side in ((0, 8), (1, 4)):
            maps = [method.heads["levels"](each[number].flatten(2).mT) for each in levels]
            crops = BATCH.fields["main.crops"]
            by_hand += [
                slow_consistency(
                    method,
                    [m[row] for m in maps],
                    [m[row] for m in maps],
                    crops[row].tolist(),
                    side,
                )
                for row in range(3)
            ]
    assert found.terms["pyramid"].item() == pytest.approx(sum(by_hand) / 6, abs=1e-10)


def test_crops_without_a_common_area_teach_nothing():
    method = held()
    losses = losses_of(method, batch_of(APART, APART))
    losses.total.backward()
    assert losses.total.item() == 0
    assert losses.logged["without_positives"] == 1
    gradients = [parameter.grad for parameter in method.parameters() if parameter.requires_grad]
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)


@pytest.mark.parametrize("image", ["timm:test_convnext:image_size=64", f"{VIT}:pooling=map"])
def test_what_only_the_pooled_vector_reads_is_frozen(image):
    """Such as a norm behind the pooling: ranks would wait for its gradient."""
    method = held(image)
    frozen = [name for name, p in method.model.named_parameters() if not p.requires_grad]
    assert frozen
    assert all("head.norm" in name or ".pool." in name or "fc_norm" in name for name in frozen)
    losses_of(
        method, batch_of((WHOLE, SHIFTED), (WHOLE, MIRRORED), size=64 if "timm" in image else 32)
    ).total.backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_the_copy_moves_as_published_with_statistics_of_its_own():
    """The release updates the copy at the beginning of step k by m_k, from the weights at that time."""
    method = held("timm:test_resnet:image_size=64")
    method.train()
    freeze_modes(method)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    model = method.model.image
    batch = batch_of((WHOLE, SHIFTED), (WHOLE, MIRRORED), size=64)
    mean = next(name for name, _ in model.named_buffers() if name.endswith("running_mean"))
    weight = next(name for name, _ in model.named_parameters())
    expected = model.get_parameter(weight).detach().clone()
    for step in range(4):
        at = replace(AT, step=step, steps=4)
        momentum = 1 - (1 - 0.99) * (math.cos(math.pi * step / 4) + 1) / 2
        expected = momentum * expected + (1 - momentum) * model.get_parameter(weight).detach()
        copy = method.slow.module["model"].image
        torch.testing.assert_close(copy.get_parameter(weight), expected)
        before = copy.get_buffer(mean).clone()
        losses = losses_of(method, batch)
        assert not torch.equal(copy.get_buffer(mean), before)  # in training mode
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        seen = copy.get_buffer(mean).clone()
        method.after_step(losses.carry, at)
        assert torch.equal(copy.get_buffer(mean), seen)
    assert not torch.equal(copy.get_buffer(mean), model.get_buffer(mean))


def test_views_are_crops_with_an_augmentation_each():
    method = make_method("pixpro", image=CONV, text=NO_TOWER)
    (view,) = method.views(method.stages()[0])
    assert view.gives == ("images.main", "fields.main.crops")
    assert (view.count, view.augment.blur, view.second.blur) == (2, 1.0, 0.1)
    assert (view.augment.solarise, view.second.solarise) == (0.0, 0.2)
    assert view.augment == replace(view.second, blur=1.0, solarise=0.0)
    found = view(Toy(1)[0], diptych.rng.generator(0), 0.5)
    assert found["images.main"].shape == (2, 3, 32, 32)
    assert found["fields.main.crops"].shape == (2, 4)
    assert isinstance(view.augment, Augment)


def test_paper_has_the_published_sizes():
    cls = method_class("pixpro")
    preset = cls.preset("paper")
    with torch.device("meta"):
        make = Make(image=preset.image, text=NO_TOWER, embed_dim=preset.embed_dim, tokenizer=None)
        method = cls.of(cls.configure(preset.config), make)

    def size(module):
        return sum(parameter.numel() for parameter in module.parameters())

    projector = 2048 * 4096 + 4096 + 2 * 4096 + 4096 * 256 + 256
    assert size(method.model.image_projection) == projector
    assert size(method.propagation) == 256 * 256 + 256
    assert size(method.slow.module["model"].image) == 23_508_032  # ResNet-50 without its classifier
    momenta = [cosine_momentum(method.config.momentum, share) for share in (0, 0.5, 1)]
    assert momenta == pytest.approx([0.99, 0.995, 1.0])
    assert preset.recipe.lr == preset.recipe.batch_size / 256


@pytest.mark.parametrize(
    ("image", "config", "message"),
    [
        ("conv:image_size=16:widths=(8,16,16):depths=(1,1,1)", {}, "feature map of this image tower is 1 x 1"),
        ({"name": "grounded_sentences.ten_crops", "tower": {"name": "conv", "image_size": 28}}, {}, "no feature map"),
        ("timm:mobilenetv3_small_050:image_size=64", {}, "are 288 wide, but its pooled vector is 1024"),
        (VIT, {"levels": 2}, "gives 0 feature maps"),
        (CONV, {"ratio": 0.0}, "'ratio' of method PixPro is 0.0"),
        (CONV, {"objective": "contrastive"}, "did you mean 'contrast'"),
        (CONV, {"augment": {"rotate": 5.0}}, "a rotated view is no crop"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(image, config, message):
    def build():
        method = make_method("pixpro", image=image, text=NO_TOWER, **HEADS, **config)
        return method.views(method.stages()[0])

    with pytest.raises(InputError, match=message):
        build()


def test_a_run_is_loaded_probed_and_continued(tmp_path, capsys):
    tower = ["--image-tower", CONV, "--embed-dim", "8"]
    world = "scenes:number=2:size=32:count=24"
    options = [
        "--method.projector",
        "mlp:hidden=16",
        "--method.channels",
        "8",
        "--method.levels",
        "2",
    ]
    train = f"train pixpro --data {world} --steps 2 --batch-size 8 --workers 0".split()
    assert main([*train, *tower, *options, "--out", str(tmp_path / "run")]) in (None, 0)
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    logged = {"loss/consistency", "loss/pyramid", "feature_std", "positives", "without_positives"}
    assert any(logged <= line.keys() for line in lines)
    model = diptych.load(tmp_path / "run")
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    found = model.represent(pixels, level=0)
    assert found.grid == (8, 8)
    with evaluating(model.encoder), torch.no_grad():
        levels = model.encoder.encode_image(pixels).levels
    torch.testing.assert_close(found.tokens, levels[0].flatten(2).mT)
    capsys.readouterr()
    evaluate = ["evaluate", str(tmp_path / "run"), "--data", world, "--suite", "dense", "--json"]
    assert main([*evaluate, "--level", "1"]) in (None, 0)
    level = json.loads(capsys.readouterr().out)["dense"]
    assert "level=1" in json.dumps(level)
    assert main([*evaluate, "--level", "2"]) == 2
    assert "no feature map 2, but 2 of them" in capsys.readouterr().err
    again = [*train, "--init", str(tmp_path / "run"), *options, "--out", str(tmp_path / "more")]
    assert main(again) in (None, 0)
    assert main([*again[:-3], "1", "--out", str(tmp_path / "other")]) == 2
    assert "levels=2 and channels=8, and levels=1" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
