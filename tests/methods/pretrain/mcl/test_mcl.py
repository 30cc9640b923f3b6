"""MCL: what its losses, batches, stages and files are."""

import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tests.factories import make_batch, make_method, small_make

import diptych
from diptych.data.batch import Batch
from diptych.data.plan import OneGroup
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.base import At
from diptych.methods.make import NO_TOWER
from diptych.methods.pretrain.mcl import MCL
from diptych.methods.registry import method_class
from diptych.objectives import info_nce
from diptych.testing import Toy

AT = At(0, 9, 0, 0, "stage1")
GROUPS = [0, 0, 1, 1, 0, 1]


def det(n, d, k):
    m = torch.arange(n * d, dtype=torch.float64)
    return ((1.7 * m + k).sin() + 0.3 * (0.9 * m * (k + 1)).cos()).reshape(n, d)


def unit(x):
    return x / x.norm(dim=1, keepdim=True)


def mixed(**config):
    """MCL on mixed batches, with CLIP at a fixed scale of 10."""
    found = make_method(MCL, embed_dim=3, batches="mixed", **config).double()
    for base in found.bases:
        base.model.logit_scale.value.data.fill_(math.log(10))  # in float64
    return found.requires_grad_(False)


def anchor_batch(groups=GROUPS):
    fields = {"group": torch.tensor(groups)}
    return Batch(fields=fields, keys=[str(at) for at in range(len(groups))])


def anchor_features():
    return {"image": unit(det(6, 3, 0)), "text": unit(det(6, 3, 1))}


def slow_clip(image, text, scale=10.0):
    """CLIP's loss by loops."""
    total = 0.0
    count = len(image)
    for a, b in ((image, text), (text, image)):
        for i in range(count):
            logits = [scale * float(a[i] @ b[j]) for j in range(count)]
            total += math.log(sum(math.exp(each) for each in logits)) - logits[i]
    return total / (2 * count)


def test_the_loss_of_a_mixed_batch_is_that_of_its_groups_batches():
    features = anchor_features()
    found = float(mixed().loss(features, anchor_batch(), AT).total)
    assert found == pytest.approx(3.6644173514, abs=1e-9)
    slow = 0.0
    for group in (0, 1):
        rows = [at for at, each in enumerate(GROUPS) if each == group]
        slow += len(rows) / 6 * slow_clip(features["image"][rows], features["text"][rows])
    assert found == pytest.approx(slow, abs=1e-9)


def test_one_group_is_the_plain_loss_and_a_singleton_costs_nothing():
    features = anchor_features()
    plain = info_nce(features["image"], features["text"], 10.0)
    assert float(plain) == pytest.approx(6.3199705523, abs=1e-9)
    one = mixed().loss(features, anchor_batch([4] * 6), AT).total
    torch.testing.assert_close(one, plain)
    alone = mixed().loss(features, anchor_batch([0, 1, 2, 3, 4, 5]), AT).total
    assert float(alone) == pytest.approx(0.0, abs=1e-12)
    assert float(mixed().loss(features, anchor_batch(), AT).total) <= float(plain)


def test_samples_of_other_groups_get_no_gradient():
    features = {name: value.requires_grad_() for name, value in anchor_features().items()}
    weights = torch.tensor(GROUPS) == 0
    loss = mixed().loss(
        {name: value[weights] for name, value in features.items()}, anchor_batch([0] * 3), AT
    )
    whole = mixed().loss(features, anchor_batch(), AT)
    (alone,) = torch.autograd.grad(loss.total, features["image"], retain_graph=True)
    (both,) = torch.autograd.grad(whole.total, features["image"])
    torch.testing.assert_close(both[weights], alone[weights] / 2)


def test_batches_of_one_group_take_turns_and_drop_the_rest():
    """Groups of 10 and 4, batches of 4: 2 + 1 batches, in the order 0, 1, 0."""

    class Labelled:
        name = "labelled"

        def __len__(self):
            return 14

        def labels(self, name):
            return np.array([0] * 10 + [1] * 4)

        def schema(self):
            return {"labels.group1": None}

    labels = Labelled().labels("group1")
    batches = OneGroup("group1")(Labelled(), 0, 0, 4)
    assert [set(labels[rows]) for rows in batches] == [{0}, {1}, {0}]
    rows = np.concatenate(batches)
    assert len(rows) == len(set(rows)) == 12


def test_each_stage_trains_its_own_encoder():
    method = make_method(MCL, stages=2)
    names = [stage.name for stage in method.stages()]
    assert names == ["stage0", "stage1", "stage2"]
    for number, stage in enumerate(method.stages()):
        assert stage.lr_scale["bases"] == 0
        assert stage.lr_scale[f"bases.{number}"] == 1
        assert (stage.prepare is None) == (number == 0)
    first, second = (method.bases[at].model.image.state_dict() for at in (0, 1))
    assert any(not torch.equal(first[name], second[name]) for name in first)
    names = [stage.name for stage in make_method(MCL, stages=1, pretrained=True).stages()]
    assert names == ["stage1"]


def test_locks_leave_the_last_groups_of_the_image_tower():
    tower = "vit:image_size=32:patch=16:width=32:depth=4:heads=2"
    method = make_method(MCL, image=tower, locked_text=True, unlocked=3)
    first, second, *_ = method.stages()
    assert set(first.lr_scale) == {"bases", "bases.0"}
    rates = {name.removeprefix("bases.1."): rate for name, rate in second.lr_scale.items()}
    assert rates["model.image"] == rates["model.text"] == rates["model.text_projection"] == 0
    blocks = "model.image.transformer.layers"
    assert {name for name in rates if name.startswith(blocks)} == {f"{blocks}.2", f"{blocks}.3"}
    assert rates["model.image.norm"] == 1
    [*_, last] = make_method(MCL, image=tower, unlocked=1).stages()
    assert not any("layers" in name or "norm" in name for name in last.lr_scale)


def test_groups_are_of_all_stages_so_far(tmp_path):
    """The columns and files of a run: clusters of each stage, and groups from all of them or the last."""
    source = open_source("scenes:count=40:number=1:size=32:easy=0.9")
    for merge in ("all", "last"):
        out = tmp_path / merge
        options = {"merge": merge, "clusters": 3, "stages": 2, "small_groups": "drop"}
        diptych.train("mcl", source, out, config=options, steps=1, batch_size=2, quiet=True, seed=1)
        stored = [_arrays(out / f"groups-{number}.safetensors") for number in (1, 2)]
        one, two = (arrays for arrays, _ in stored)
        assert (one["groups"] == one["clusters"]).all()
        codes = one["clusters"] * 3 + two["clusters"] if merge == "all" else two["clusters"]
        assert (two["groups"] == codes).all()
        assert one["centroids"].shape == (3, 192)
        for arrays, metadata in stored:
            counts = np.unique(arrays["groups"], return_counts=True)[1]
            assert float(metadata["coverage"]) == round((counts // 2 * 2).sum() / 40, 4)
            assert (metadata["clusters"], metadata["batch_size"]) == ("3", "2")
    model = diptych.load(out)
    assert model.spaces == ("all", "stage0", "stage1", "stage2")
    assert model.embed_images(["tests/data/none.png"][:0]).shape == (0, 3 * 192)


def _arrays(path):
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_images_alone_are_grouped_by_what_is_used_downstream(tmp_path):
    source = open_source("scenes:count=24:number=1:size=32")
    out = tmp_path / "run"
    diptych.train("mcl", source, out, preset="images", steps=1, batch_size=8, quiet=True)
    arrays, _ = _arrays(out / "groups-1.safetensors")
    model = diptych.load(out)
    assert arrays["centroids"].shape[1] == model.space("stage0").encoder.image.width
    assert model.encoder.image.width == 3 * arrays["centroids"].shape[1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"base": "coop"}, "trains no encoder of its own"),
        ({"base": "mine.py"}, "method.base is the file mine.py"),
        ({"base": "mcl"}, "trains no encoder of its own"),
        ({"base": "mod_x"}, "more than one dual encoder in one stage"),
        ({"options": {"distinct": "object"}}, "leave them out"),
        (
            {"unlocked": 2, "image": "conv:image_size=32:widths=(8,):depths=(1,)"},
            "this image tower has none",
        ),
        ({"base": "none_such"}, "none_such"),
    ],
)
def test_what_does_not_fit_is_refused(options, reason):
    with pytest.raises(InputError, match=reason):
        make_method(MCL, **options)


@pytest.mark.parametrize("name", ["byol", "swav"])
def test_a_base_with_state_of_whole_batches_has_no_mixed_ones(name):
    make = small_make(text=NO_TOWER)
    with pytest.raises(InputError, match="leave out --method.batches mixed"):
        make_method(MCL, make=make, base=name, batches="mixed")


@pytest.mark.parametrize(
    "name", ["siglip", "simclr", "byol", "dcl", "supcon", "barlow_twins", "simsiam"]
)
def test_a_base_may_be_any_method_on_one_dual_encoder(name):
    base = method_class(name)
    make = small_make() if base.preset("small").text != NO_TOWER else small_make(text=NO_TOWER)
    method = make_method(MCL, make=make, base=name, stages=1)
    batch = make_batch(8, {"main": 2}, {"main": 1}, label=torch.tensor([0, 1, 0, 1, 2, 2, 3, 3]))
    if name == "siglip":
        batch = make_batch(8, {"main": 1}, {"main": 1})
    losses = method.loss(method.encode(batch, AT), batch, AT)
    losses.total.backward()
    first, second = (
        {name for name, each in base.named_parameters() if each.grad is not None}
        for base in method.bases
    )
    assert not first
    assert second
    method.after_step(losses.carry, AT)


def test_what_a_later_stage_needs_is_known_before_the_first():
    method = make_method(MCL, clusters=99)
    with pytest.raises(InputError, match="mcl makes 99 clusters of 12 points"):
        method.setup({"train": Toy(12)})


def test_mixed_batches_carry_their_groups():
    method = make_method(MCL, batches="mixed")
    first, second, *_ = method.stages()
    assert "labels.group1" not in method.needs(first)
    assert "labels.group1" in method.needs(second)
    assert not isinstance(second.plan, OneGroup)


def test_a_step_of_a_stage_is_its_bases():
    method = make_method(MCL, embed_dim=16).eval()
    batch = make_batch(4, {"main": 1}, {"main": 1}, size=method.bases[0].model.image.image_size)
    features = method.encode(batch, AT)
    torch.testing.assert_close(
        features["image"], method.bases[1].model.embed_images(batch.image.flat)
    )
    clip = info_nce(features["image"], features["text"], method.bases[1].model.logit_scale())
    torch.testing.assert_close(method.loss(features, batch, AT).total, clip)
