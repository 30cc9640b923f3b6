"""Hydra as a method: its variants from features, what gradients reach, classes, and what it
delivers."""

import json
import re

import numpy as np
import pytest
import torch
from tests.factories import AT, make_batch, make_method
from tests.methods.pretrain.hydra.helpers import NARROW, held, slow, toy
from torch.nn.functional import cross_entropy, normalize

import diptych
from diptych.cli import main
from diptych.data.columns import WithColumns
from diptych.data.plan import AtLeast, OneGroup
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.base import At
from diptych.methods.make import NO_TOWER
from diptych.methods.registry import method_class
from diptych.testing import Toy
from diptych.training.config import resolve
from diptych.training.run import run

LABELS = torch.tensor([4, 7, 4, 9, 7, 9, 4, 7])  # of a source with gaps


def batch(views=2):
    return make_batch(8, {"main": views}, label=LABELS)


def terms(made, given, seed=3):
    """The features, the losses, and the gate and the partners of the same draw."""
    features = made.encode(given, AT)
    kept = []
    own = made.gates_of
    made.gates_of = lambda y, p: kept.append((y, p, own(y, p))) or kept[-1][2]
    torch.manual_seed(seed)
    losses = made.loss(features, given, AT)
    return features, losses, kept


def loops(z, keys, drawn, tau=0.1):
    y, p, gate = drawn
    whole = (each.detach().double() for each in (z, keys, gate))
    return slow(*whole, y.tolist(), p.tolist(), tau)[0]


@pytest.mark.parametrize("symmetric", [False, True])
def test_simlap_contrasts_views_with_gradient_to_the_keys(symmetric):
    made = held(symmetric=symmetric)
    features, losses, [drawn] = terms(made, batch())
    one, other = features["views"].unbind(1)
    expected = loops(one, other, drawn)
    if symmetric:
        expected = (expected + loops(other, one, drawn)) / 2
    assert losses.terms.keys() == {"gated"}
    assert losses.total.item() == pytest.approx(expected, rel=1e-5)
    (grad,) = torch.autograd.grad(losses.total, features["views"])
    assert (grad.abs().sum((0, 2)) > 0).all()
    assert drawn[0].tolist() == [0, 1, 0, 2, 1, 2, 0, 1]  # numbers of the values that there are
    assert losses.logged["gate_open"].item() == pytest.approx(drawn[2].sum(1).mean().item())


def test_supervised_keeps_the_anchor_among_keys_and_probes_beside_the_tower():
    made = held(variant="supervised", repeats=3, pairs="identical")
    assert made.views(made.stages()[0])[0].count == 3
    features, losses, [drawn] = terms(made, batch(3))
    z = features["views"].flatten(0, 1)
    assert losses.terms["gated"].item() == pytest.approx(loops(z, z, drawn), rel=1e-5)
    logits = features["logits"].flatten(0, 1)
    numbers = torch.tensor([0, 1, 0, 2, 1, 2, 0, 1]).repeat_interleave(3)
    torch.testing.assert_close(losses.terms["classes"], cross_entropy(logits, numbers))
    losses.terms["classes"].backward()
    assert all(value.grad is None for value in made.model.parameters())
    assert made.classifier.weight.grad.abs().sum() > 0


def test_moco_weighs_the_instance_branch_and_its_keys_have_no_gradient():
    made = held(variant="moco", beta=0.5)
    features, losses, [drawn] = terms(made, batch())
    q, k = (features[name].unbind(1) for name in ("views", "keys"))
    own = torch.arange(8)
    instance = [
        cross_entropy(10 * normalize(a, dim=1) @ normalize(b, dim=1).T, own)
        for a, b in ((q[0], k[1]), (q[1], k[0]))
    ]
    gated = (loops(q[0], k[1], drawn) + loops(q[1], k[0], drawn)) / 2
    expected = (sum(instance).item() / 2 + 0.5 * gated) / 1.5
    assert losses.total.item() == pytest.approx(expected, rel=1e-5)
    assert not features["keys"].requires_grad
    predicted = made.predictor(made.projected(made.model, batch()))
    torch.testing.assert_close(features["views"], predicted)


def test_moco_early_adds_the_class_term_of_identical_pairs():
    made = held(variant="moco_early", alpha=0.25, beta=2.0)
    features, losses, [drawn, of_class] = terms(made, batch())
    q, k = (features[name].unbind(1) for name in ("views", "keys"))
    assert torch.equal(of_class[0], of_class[1])
    gated, own = (
        (loops(q[0], k[1], each) + loops(q[1], k[0], each)) / 2 for each in (drawn, of_class)
    )
    rest = losses.total.item() - losses.terms["instance"].item()
    assert rest == pytest.approx(gated + 2 * own, rel=1e-5)
    whole = terms(held(variant="moco", beta=0.0), batch())[1].total
    assert losses.terms["instance"].item() == pytest.approx(whole.item() / 4, rel=1e-5)


def test_the_copy_follows_by_a_momentum_that_rises_to_one():
    made = held(variant="moco", momentum=0.9)
    before = next(made.slow.module.parameters()).clone()
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(1.0)
    made.after_step({}, At(5, 10, 0, 0))
    torch.testing.assert_close(next(made.slow.module.parameters()), before + 0.05)


def test_the_entropy_of_the_gate_is_a_term_where_it_has_a_weight():
    made = held(gamma=0.3)
    _, losses, _ = terms(made, batch())
    assert losses.terms["entropy"].item() == pytest.approx(
        0.3 * float(losses.logged["gate_entropy"])
    )
    assert 0 < losses.logged["gate_entropy"] <= np.log(2) + 1e-6


def test_the_temperature_is_learned_on_request():
    made = held(learn_tau=True)
    _, losses, _ = terms(made, batch())
    losses.total.backward()
    assert made.scale().item() == pytest.approx(10)
    assert made.scale.value.grad.abs() > 0
    assert not [*held().scale.parameters()]


def test_plans_and_labels():
    stage = held(min_per_class=3).stages()[0]
    assert stage.plan == AtLeast("class", 3)
    grouped = held(group="kind").stages()[0].plan
    assert grouped == OneGroup("kind", every=True)
    source = toy(kind=[0] * 20 + [1] * 4)
    with pytest.raises(InputError, match="value 1 of labels.kind has 4 samples .* lower --batch-"):
        grouped(source, 0, 0, 8)
    assert held(toy([0, 70, -1, 70])).names == ("0", "70")
    named = held(Toy(3, ["images.main", "labels.class"]))
    assert named.names == ("red", "orange", "yellow")  # of eight, five of which have no sample


def test_the_gate_follows_from_the_seed_and_not_from_when_it_is_built():
    one, other = held(), held()
    torch.rand(5)
    third = make_method("hydra", text=NO_TOWER, embed_dim=16, **NARROW)
    torch.manual_seed(99)
    third.setup({"train": toy()})
    for gate in (other.gate, third.gate):
        assert torch.equal(one.gate.table.weight, gate.table.weight)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"repeats": 2}, "repeats is an option of variant=supervised"),
        ({"variant": "moco", "symmetric": True}, "symmetric is an option of variant=simlap"),
        ({"variant": "moco", "alpha": 1.0}, "alpha is an option of variant=moco_early"),
        ({"form": "raw", "learn_tau": True}, "form=raw has no temperature"),
        ({"min_per_class": 2, "group": "kind"}, "two ways to fill a batch"),
        ({"pairs": "any"}, "'pairs' of method Hydra"),
        ({"tau": 0.0}, "'tau' of method Hydra is 0.0"),
    ],
)
def test_bad_options_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        method_class("hydra").configure(config)


def test_data_that_has_no_pairs_of_classes_is_refused():
    with pytest.raises(InputError, match=r"have 1 classes by labels.class.* --method.label"):
        held(toy([3, 3, -1, 3]))
    measured = Toy(8, ["images.main", "labels.class"], floats=["class"])
    with pytest.raises(InputError, match="and no class"):
        held(measured)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on drawings, of which two have no label."""
    out = tmp_path_factory.mktemp("hydra") / "run"
    labels = [-1, -1, *(value % 3 for value in range(22))]
    config = resolve(
        "hydra",
        {"train": "scenes:count=24:number=1:size=32"},
        image_tower="conv:image_size=32:widths=(8,16):depths=(1,1)",
        embed_dim=12,
        config={**NARROW, "augment": {}, "label": "kind"},
        recipe={"steps": 3, "batch_size": 8, "ema": None},
        options={"quiet": True, "max_bad": 0.1},
    )
    drawn = WithColumns(open_source(config.data["train"]), {"kind": np.array(labels)})
    summary = run(config, out, sources={"data.train": drawn})
    return out, summary


def test_samples_without_the_label_are_counted_and_replaced(trained):
    _, summary = trained
    assert set(summary.damaged.values()) == {"no-label"}


def test_the_delivered_model_embeds_by_the_tower_and_keeps_the_gates(trained):
    model = diptych.load(trained[0])
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    embedded = model.embed_images(images)
    pooled = model.represent(images).pooled
    torch.testing.assert_close(embedded, normalize(pooled, dim=1))
    assert embedded.shape == (3, 16)
    assert model.encoder.text is None
    assert not any("projection" in name for name in model.delivered.state_dict())
    gates = model.gates()
    assert gates.shape == (3, 3, 12)
    assert ((gates > 0) & (gates < 1)).all()
    assert torch.equal(gates, gates.transpose(0, 1))
    assert torch.equal(model.gates(torch.tensor([2]), torch.tensor([0]))[0], gates[0, 2])
    with pytest.raises(InputError, match="classes 0 to 2, not of 3"):
        model.gates(torch.tensor([1]), torch.tensor([3]))


def test_gates_are_computed_in_chunks(trained, monkeypatch):
    model = diptych.load(trained[0])
    whole = model.gates()
    monkeypatch.setattr("diptych.methods.pretrain.hydra.model.PAIRS", 2)
    torch.testing.assert_close(model.gates(), whole)


def test_info_shows_the_nearest_classes(trained, capsys):
    assert main(["info", str(trained[0]), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["class_relations"]
    gates = diptych.load(trained[0]).gates()
    own = normalize(torch.stack([gates[c, c] for c in range(3)]), dim=1)
    for number, row in enumerate(rows):
        others = sorted(set(range(3)) - {number}, key=lambda c: -float(own[number] @ own[c]))
        assert row["class"] == str(number)
        assert row["of"] == 12
        assert row["open"] == int((gates[number, number] > 0.5).sum())
        assert [each["class"] for each in row["nearest"]] == [str(c) for c in others]
        for each, c in zip(row["nearest"], others, strict=True):
            assert each["cosine"] == pytest.approx(float(own[number] @ own[c]), abs=1e-4)
            assert each["open"] == int((gates[number, c] > 0.5).sum())
    assert main(["info", str(trained[0])]) == 0
    shown = capsys.readouterr().out
    assert "classes by their gates" in shown
    assert re.search(r"\d+ of 12", shown)


def test_a_run_may_begin_from_a_run_and_validates_by_a_probe(trained, tmp_path):
    data = "glyphs:split=val:design=noto"
    options = {"label": "group", "variant": "moco", **NARROW}
    flags = [part for name, value in options.items() for part in (f"--method.{name}", str(value))]
    flags += ["--steps", "1", "--batch-size", "32", "--val", data, "--init", str(trained[0])]
    assert main(["train", "hydra", "--data", data, "--out", str(tmp_path / "run"), *flags]) == 0
    model = diptych.load(tmp_path / "run")
    assert model.encoder.embed_dim == 16
    assert "val/linear_top1" in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_published_size():
    """1,000 classes of ImageNet with ResNet-50: the gate has 512 numbers a class, a layer of 1,024 and
    256 dimensions."""
    preset = method_class("hydra").preset("paper")
    with torch.device("meta"):
        made = make_method(
            "hydra", image=preset.image, text=NO_TOWER, embed_dim=256, **preset.config
        )
        gate = made.gate.resized(1000, 256)
    layers = 2 * 512 + (512 * 1024 + 1024) + 2 * 1024 + (1024 * 256 + 256)
    assert sum(value.numel() for value in gate.parameters()) == 512_000 + layers
    assert [type(layer).__name__ for layer in made.model.image_projection] == [
        "Linear",
        "BatchNorm1d",
        "ReLU",
        "Linear",
        "LayerNorm",
    ]
