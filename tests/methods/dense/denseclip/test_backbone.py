"""DenseCLIP on a backbone that was not trained with texts: the rows of its new attention pool, what is
trained, saving, and towers that are refused."""

import math
from dataclasses import replace

import pytest
import torch
from tests.factories import AT, make_method, random_images, small_make

from diptych.cli import main
from diptych.data.loader import Loader
from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.adapters import LowRank
from diptych.methods.dense.denseclip.backbone import (
    AttentionPool,
    PooledConfig,
    PooledTower,
    backbone_of,
    encoder_on,
)
from diptych.methods.dense.denseclip.features import dense_features, map_widths, tap_counts
from diptych.methods.make import Make
from diptych.testing import Toy
from diptych.testing import check as suite
from diptych.towers.build import image_tower
from diptych.towers.nn.parts import Temperature
from diptych.training import optim

CONV = "conv:image_size=32:widths=(8,12,16):depths=(1,1,1)"
VIT = "vit:image_size=32:patch=8:width=32:depth=4:heads=2:pooling=map:mask_token=true"
SMALL = {"width": 16, "inner": 16, "decoder_width": 16, "dropout": 0.0, "n_ctx": 2}
SEGMENT = suite.Subject.of("denseclip", {"backbone": CONV})
FOUND = {task: suite.Subject.of("denseclip", {"backbone": CONV, "task": task})
         for task in ("detect", "instances")}  # fmt: skip


def encoder(spec, size=None, make=None):
    torch.manual_seed(0)
    return encoder_on(spec, make or small_make(), Temperature(10.0, form="fixed"), size)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of images alone, on a convolutional tower."""
    folder = tmp_path_factory.mktemp("backbone")
    made = make_method("simclr", image=CONV, text="none").deliver()
    description = store.describe("simclr", {}, made, None, made.image.preprocess)
    store.save_model(folder, description, made.state_dict())
    return folder


# ---- the pool


def slow_rows(pool, x, places):
    """The rows of a map (D, h, w) in loops over queries, keys and heads."""
    D = len(x)
    tokens = [x.flatten(1).mean(1), *x.flatten(1).T]
    tokens = [token + place for token, place in zip(tokens, places, strict=True)]
    q, k, v = ([part(token) for token in tokens] for part in (pool.q, pool.k, pool.v))
    side = D // pool.num_heads
    rows = torch.zeros(len(tokens), D, dtype=x.dtype)
    for row in range(len(tokens)):
        for head in range(pool.num_heads):
            at = slice(side * head, side * (head + 1))
            weights = [math.exp(float(q[row][at] @ key[at]) / math.sqrt(side)) for key in k]
            for weight, value in zip(weights, v, strict=True):
                rows[row, at] += weight / sum(weights) * value[at]
    return rows


def test_rows_are_those_of_a_slow_reference(monkeypatch):
    from diptych.methods.dense.denseclip import backbone

    monkeypatch.setattr(backbone, "HEAD", 8)  # two heads
    made = encoder(CONV).double().eval()
    assert made.image.attention.num_heads == 2
    x = random_images(2)
    with torch.no_grad():
        found = dense_features(made, x)
        blank = made.image.inner(x)
        maps = blank.patches.mT.unflatten(2, (2, 2))
        for image in range(2):
            rows = slow_rows(made.image.attention, maps[image], made.image.attention.pos_embed)
            wanted = rows @ made.image_projection.weight.T + made.image_projection.bias
            torch.testing.assert_close(found.vector[image], wanted[0])
            torch.testing.assert_close(found.positions[image].flatten(1).T, wanted[1:])
    assert float((found.positions[..., 0, 0] - found.positions[..., 1, 1]).abs().min()) > 0
    for own, given in zip(found.maps, blank.levels, strict=True):
        assert torch.equal(own, given)


def test_images_and_regions_are_embedded_by_the_pool():
    made = encoder(CONV).eval()
    x = random_images(2)
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(dense_features(made, x).vector, dim=-1)
        torch.testing.assert_close(made.embed_images(x), wanted)


def test_the_maps_of_a_vit_are_those_of_its_blocks():
    made = encoder(VIT).eval()
    x = random_images(2)
    tower = made.image.inner
    with torch.no_grad():
        found = dense_features(made, x)
        tokens = tower.embed(x)
        for count, own in zip(tap_counts(4), found.maps, strict=True):
            wanted = tower.blocks(tokens, stop=count)[:, 1:]
            torch.testing.assert_close(own.flatten(2).mT, wanted)
    assert map_widths(made) == (32,) * 4
    assert found.positions.shape == (2, 32, 4, 4)
    still = {name for name, value in tower.named_parameters() if not value.requires_grad}
    assert still == {name for name, _ in tower.named_parameters() if name.startswith("pool.")} | {
        "mask_token"
    }


def test_heads_divide_the_channels():
    assert [AttentionPool(width, (1, 1)).num_heads for width in (16, 96, 128, 200)] == [1, 1, 2, 2]


@pytest.mark.parametrize("spec", [CONV, VIT])
def test_another_size_is_read_and_saved(spec):
    made = encoder(spec, size=64)
    assert made.image.image_size == 64
    assert dense_features(made, random_images(1, size=64)).positions.shape[-1] in (4, 8)
    grid = made.image.config.grid
    made.image.resize(32)
    assert made.image.config.grid == grid  # positions are interpolated
    again = image_tower(made.image.spec)
    again.load_state_dict(made.image.state_dict())
    x = random_images(1)
    with torch.no_grad():
        found = again.eval()(x)
        torch.testing.assert_close(found.pooled, made.image.eval()(x).pooled)
    assert found.grid[0] == grid[0] // 2


def test_a_resnet_of_timm_gives_the_maps_of_its_stages():
    pytest.importorskip("timm")
    made = make_method("denseclip", backbone="timm:test_resnet", size=64, **SMALL).model
    made.set_classes(["red", "blue"])
    widths = [part["num_chs"] for part in made.image.inner.model.feature_info][-4:]
    assert list(map_widths(made.encoder)) == widths
    with torch.no_grad():
        logits, scores = made.eval()(random_images(1, size=64))
    assert logits.shape == (1, 2, 16, 16)
    assert scores.shape == (1, 2, 2, 2)


# ---- training


def test_texts_are_the_given_models_and_images_the_backbones(run):
    make = Make.of(store.load("tiny"))
    given = store.load("tiny").encoder
    made = encoder(str(run), make=make)
    for name in ("text", "text_projection"):
        own = getattr(made, name).state_dict()
        for key, value in getattr(given, name).state_dict().items():
            assert torch.equal(own[key], value), key
    own = made.image.inner.state_dict()
    for key, value in store.load(run).encoder.image.state_dict().items():
        assert torch.equal(own[key], value), key
    assert made.embed_dim == given.embed_dim


@pytest.mark.parametrize("spec", [CONV, VIT])
def test_the_pool_is_trained_and_the_texts_are_not(spec):
    made = make_method("denseclip", backbone=spec, **SMALL)
    source = Toy(4, ["images.main", "masks.class"])
    made.setup({"train": source})
    [stage] = made.stages()
    batch = next(iter(Loader(source, made.views(stage), stage.plan, 4, steps=1).epoch(0)))
    optim.freeze(made, stage.lr_scale)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    learnt = {name: value for name, value in made.named_parameters() if value.requires_grad}
    optimizer = torch.optim.SGD(learnt.values(), lr=0.1)
    made.loss(made.encode(batch, AT), batch, AT).total.backward()
    optimizer.step()
    moved = {
        name for name, value in made.state_dict().items() if not torch.equal(before[name], value)
    }
    start = "model.encoder."
    assert not any(name.startswith(f"{start}text") for name in moved)
    assert {f"{start}image.attention.{name}.weight" for name in "qkv"} <= moved
    assert {f"{start}image.attention.pos_embed", f"{start}image_projection.weight"} <= moved
    slow = {name for name in learnt if optim.scale_of(name, stage.lr_scale) == 0.1}
    assert slow == {name for name in learnt if name.startswith(f"{start}image.inner.")}
    assert slow
    assert all(value.grad is not None for value in learnt.values())
    assert not any(".pool." in name or "mask_token" in name for name in learnt)


CHECKS = (
    suite.encode_mixes_no_samples,
    suite.loss_changes_no_state,
    suite.every_parameter_learns,
    suite.saved_model_loads,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_segmentor_keeps_the_contract(check):
    check(SEGMENT)


@pytest.mark.parametrize("task", FOUND)
def test_the_detectors_learn_and_are_saved(task):
    suite.every_parameter_learns(FOUND[task])
    suite.saved_model_loads(FOUND[task])


def test_it_runs_from_the_command_line_and_is_loaded_without_the_backbone(run, tmp_path, capsys):
    given = tmp_path / "images"
    run.rename(given)
    out = tmp_path / "run"
    scenes = "scenes:number=2:count=4:size=32"
    command = ["train", "denseclip", "--init", "tiny", "--data", scenes, "--out", str(out)]
    options = {"--method.backbone": str(given), "--batch-size": "2", "--steps": "1"}
    assert main([*command, *(part for pair in options.items() for part in pair)]) == 0
    given.rename(run)  # it is not read any more
    model = store.load(out)
    assert isinstance(model.delivered.image, PooledTower)
    assert model.segment(random_images(2)).shape == (2, 32, 32)
    again = Make.of(model).dual(logit_scale=Temperature())
    x = random_images(2)
    with torch.no_grad():
        wanted = model.encoder.eval().embed_images(x)
        torch.testing.assert_close(again.eval().embed_images(x), wanted)


# ---- what is refused


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("conv:image_size=32:widths=(8,):depths=(1,)", "no maps of several scales"),
        ("resnet3d:image_size=32:slices=16:widths=(8,16):depths=(1,1)", "reads volumes"),
        ("tiny-lm", "backbone tiny-lm: it has no image tower"),
        ("runs/none", "backbone runs/none: there is no model at"),
        ("conv:depth=2", "backbone conv:depth=2"),
    ],
)
def test_towers_without_maps_are_refused(spec, message):
    with pytest.raises(InputError, match=message):
        make_method("denseclip", backbone=spec, **SMALL)


def test_a_tower_without_positions_is_refused(monkeypatch):
    tower = image_tower(CONV)
    forward = tower.forward
    monkeypatch.setattr(tower, "forward", lambda x: replace(forward(x), grid=None))
    with pytest.raises(InputError, match="image tower 'conv' has no map of positions"):
        PooledTower(PooledConfig(tower=tower.spec), tower)


def test_a_vit_of_timm_has_maps_of_one_scale():
    pytest.importorskip("timm")
    with pytest.raises(InputError, match="no maps of several scales"):
        make_method("denseclip", backbone="timm:test_vit", **SMALL)
    with pytest.raises(
        InputError, match="backbone timm:test_vit: .* give image_size=64 in its spec"
    ):
        make_method("denseclip", backbone="timm:test_vit", size=64, **SMALL)


def test_sizes_adapters_and_models_without_texts_are_refused():
    with pytest.raises(InputError, match="method.size is 20 pixels"):
        encoder(VIT, size=20)
    with pytest.raises(InputError, match="leave out --adapt"):
        encoder(CONV, make=small_make(adapter=LowRank()))
    with pytest.raises(InputError, match="no text tower"):
        make_method("denseclip", text="none", backbone=CONV)


def test_a_folder_is_a_run_whatever_its_name(run, tmp_path, monkeypatch):
    (tmp_path / "conv").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    assert backbone_of("conv").spec["widths"] == [8, 12, 16]
