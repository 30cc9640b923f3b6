"""SepCLR: the figures of the sheet, the loss by loops, its invariances, batches, and two spaces from
training to evaluation."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tests.factories import AT, det, make_batch, make_method, raw
from torch.nn.functional import normalize

import diptych
from diptych.cli import main
from diptych.errors import InputError
from diptych.methods.make import NO_TOWER
from diptych.methods.pretrain.sepclr.objectives import (
    attributes_term,
    background_term,
    common_term,
    joint_potential,
    joint_term,
    mean_square,
    pinned,
    salient_term,
)
from diptych.methods.registry import method_class
from diptych.objectives import uniformity
from diptych.testing import Toy

WORLD = "scenes:number=1:size=32:overlay=0.5:texts=caption"
SMALL = ["--image-tower", "conv:image_size=32:widths=(8,16):depths=(1,1)", "--embed-dim", "16"]
TARGET = torch.tensor([False, True, False, True])


def drawn(n, d, seed):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def square(a, b):
    return sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True))


def slow_unif(rows):
    pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
    return math.log(sum(math.exp(-square(rows[i], rows[j])) for i, j in pairs) / len(pairs))


def slow_align(a, b):
    return sum(square(x, y) for x, y in zip(a, b, strict=True)) / len(a)


def slow_terms(c, s, target):
    """The four terms by loops, tau = 0.5; two views each."""
    kinds = target.tolist()
    zeroed = [torch.stack([r if k else 0 * r for r, k in zip(v, kinds, strict=True)]) for v in s]
    own = [[r for r, k in zip(v, kinds, strict=True) if k] for v in s]
    other = [[r for r, k in zip(v, kinds, strict=True) if not k] for v in s]
    common = slow_align(*c) + 2 * (slow_unif(c[0]) + slow_unif(c[1])) / 2
    salient = slow_align(*own) + 2 * (slow_unif(zeroed[0]) + slow_unif(zeroed[1])) / 2
    background = sum(slow_align([0 * r for r in v], v) for v in other) / 2
    joint = 0.0
    for view, rows in zip(c, zeroed, strict=True):
        for i in range(len(view)):
            near = [
                math.exp(-square(view[i], view[j])) * math.exp(-square(rows[i], rows[j]))
                for j in range(len(view))
            ]
            joint += math.log(sum(near) / len(near)) / len(view) / 2
    return common, salient, background, joint


def terms(c, s, target):
    return (
        common_term(c, 0.5),
        salient_term(s, target, 0.5),
        background_term(s, target, 0.5),
        joint_term(c, s, target, 0.5),
    )


def test_figures_of_the_single_terms():
    x = raw(5, 2, 0)
    assert mean_square(x - (x + 1), 0.5).item() == pytest.approx(2.0)
    corner = torch.tensor([[0.0, 0], [1, 0], [0, 1]], dtype=torch.float64)
    assert uniformity(corner, 1.0).item() == pytest.approx(-1.2366174846, abs=1e-10)
    c = det(4, 3, 0)
    s = pinned(raw(4, 2, 1), torch.tensor([False, False, True, True]))
    assert joint_potential(c, s, 0.5).item() == pytest.approx(-1.2673693115, abs=1e-10)
    assert joint_potential(c, 0 * s, 0.5).item() == pytest.approx(-1.0202067471, abs=1e-10)


def test_joint_potential_is_largest_where_all_coincide_and_flat_where_all_are_far_apart():
    same = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    found = joint_potential(same, same, 0.5)
    found.backward()
    assert found.item() == pytest.approx(0, abs=1e-12)
    assert torch.equal(same.grad, torch.zeros_like(same))  # of distance 0, not nan
    far = (100 * torch.eye(4, dtype=torch.float64)).requires_grad_()
    found = joint_potential(far, far, 0.5)
    found.backward()
    assert found.item() == pytest.approx(-1.3862943611, abs=1e-10)
    assert far.grad.abs().max() < 1e-12


def test_figures_of_the_whole_loss():
    c = [det(4, 3, k) for k in (0, 1)]
    s = [raw(4, 2, k) for k in (2, 3)]
    figures = (-2.1585750459, -0.4043213431, 1.3335695320, -1.1940294127)
    assert [term.item() for term in terms(c, s, TARGET)] == pytest.approx(figures, abs=1e-9)
    method = held(beta_salient=1000.0, beta_background=1000.0, joint=10.0).double()
    features = {
        "common": torch.stack([raw(4, 3, k) for k in (0, 1)], 1),  # not normalised
        "salient": torch.stack(s, 1),
    }
    batch = make_batch(4, {"main": 2}, kind=torch.tensor([-1, 3, -1, 0]))
    found = method.loss(features, batch, AT)
    assert found.total.item() == pytest.approx(915.1493197112, abs=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_terms_are_those_of_loops_with_the_right_gradients(seed):
    c = [normalize(drawn(7, 3, seed + k), dim=1) for k in (0, 10)]
    s = [(3 * drawn(7, 2, seed + k)).requires_grad_() for k in (20, 30)]
    target = torch.tensor([True, False, True, True, False, False, True])
    assert [term.item() for term in terms(c, s, target)] == pytest.approx(
        slow_terms(c, [v.detach() for v in s], target), abs=1e-10
    )
    assert torch.autograd.gradcheck(lambda *s: salient_term(s, target, 0.5), s)
    assert torch.autograd.gradcheck(lambda *s: joint_term(c, s, target, 0.5), s)
    assert torch.autograd.gradcheck(lambda *s: background_term(s, target, 0.5), s)


def test_only_the_background_term_reaches_the_background():
    c = [det(4, 3, k) for k in (0, 1)]
    s = [raw(4, 2, k).requires_grad_() for k in (2, 3)]
    (salient_term(s, TARGET, 0.5) + joint_term(c, s, TARGET, 0.5)).backward()
    assert torch.equal(s[0].grad[~TARGET], torch.zeros(2, 2, dtype=torch.float64))
    assert (s[0].grad[TARGET] != 0).any()
    (only,) = torch.autograd.grad(background_term(s, TARGET, 0.5), s[:1])
    assert (only[~TARGET] != 0).all()
    assert not only[TARGET].any()


def test_spaces_may_be_turned_and_the_salient_one_not_moved():
    c = [det(4, 3, k) for k in (0, 1)]
    s = [raw(4, 3, k) for k in (2, 3)]
    turn = torch.linalg.qr(drawn(3, 3, 0))[0]
    turned = terms([x @ turn for x in c], [x @ turn for x in s], TARGET)
    for one, other in zip(terms(c, s, TARGET), turned, strict=True):
        torch.testing.assert_close(one, other)
    moved = [x + 1 for x in s]
    assert abs(salient_term(moved, TARGET, 0.5) - salient_term(s, TARGET, 0.5)) > 0.01
    assert abs(background_term(moved, TARGET, 0.5) - background_term(s, TARGET, 0.5)) > 0.01


def test_long_salient_vectors_keep_their_distances():
    s = [3000 + raw(6, 4, k).float() for k in (0, 1)]
    target = torch.tensor([True] * 5 + [False])
    exact = [x.double() for x in s]
    _, salient, _, joint = slow_terms(exact, exact, target)
    assert salient_term(s, target, 0.5).item() == pytest.approx(salient, abs=1e-5)
    assert joint_term(s, s, target, 0.5).item() == pytest.approx(joint, abs=1e-5)


def slow_attributes(s, target, discrete, continuous):
    found = []
    targets = [i for i in range(len(s)) if target[i]]
    for k, (kind, values) in enumerate(
        [*(("d", v) for v in discrete), *(("c", v) for v in continuous)]
    ):
        own = [s[i, k].item() if target[i] else 0.0 for i in range(len(s))]
        unif = slow_unif(torch.tensor(own)[:, None].double())
        known = [
            i for i in targets if (values[i] >= 0 if kind == "d" else math.isfinite(values[i]))
        ]
        pairs = [(i, j) for i in known for j in known if i < j]
        alike = 0.0
        for i, j in pairs:
            gap = (values[i] - values[j]).item()
            weight = float(gap == 0) if kind == "d" else math.exp(-(gap**2) / (2 * 0.025))
            alike += weight * (s[i, k] - s[j, k]).item() ** 2 / len(pairs)
        rest = [s[i, k].item() ** 2 for i in range(len(s)) if not target[i]]
        tau = 0.5 if kind == "d" else 0.025
        found.append(unif + (alike + sum(rest) / len(rest) / (2 * tau)) / 2)
    return sum(found) / len(found)


def test_known_attributes_align_each_dimension_by_their_similarity():
    s = drawn(8, 3, 0).requires_grad_()
    target = torch.tensor([1, 1, 0, 1, 1, 0, 1, 1]).bool()
    shape = torch.tensor([2, 0, -1, 2, 0, -1, -1, 2])  # one target of unknown shape
    place = torch.tensor([1, 1, -1, 0, 1, -1, 0, 0])
    size = torch.tensor([0.1, 0.2, math.nan, 0.9, math.nan, math.nan, 0.5, 0.15])
    values = {"shape": shape, "place": place, "size": size}
    found = attributes_term(s, target, values, 0.5)
    assert found.item() == pytest.approx(
        slow_attributes(s.detach(), target, [shape, place], [size]), abs=1e-6
    )
    assert torch.autograd.gradcheck(lambda s: attributes_term(s, target, values, 0.5), s)
    none = {name: torch.full_like(value, -1) for name, value in list(values.items())[:2]}
    none["size"] = torch.full_like(size, math.nan)
    found = attributes_term(s, target, none, 0.5)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(s.grad).all()


def held(**config):
    return make_method(
        "sepclr", text=NO_TOWER, embed_dim=16, projector="mlp:hidden=8", salient_dim=3, **config
    )


def test_two_encoders_share_no_weights_and_heads_are_as_published():
    method = held()
    names = {id(p) for p in method.model.encoder.parameters()}
    assert not names & {id(p) for p in method.model.salient.parameters()}
    paper = method_class("sepclr").presets["paper"]
    with torch.device("meta"):
        built = make_method(
            "sepclr", image=paper.image, text=NO_TOWER, embed_dim=paper.embed_dim, **paper.config
        )
    # a ResNet-18 for 32 pixels has 11,168,832 weights without its classifier
    of_resnet = 11_168_832 + 512 * 32 + 32
    head = 32 * 128 + 128 + 2 * 128 + 128 * 32 + 32
    assert sum(p.numel() for p in built.parameters()) == 2 * (of_resnet + head)


def test_with_attributes_the_salient_encoder_sees_the_undistorted_image_alone():
    method = make_method(
        "sepclr",
        text=NO_TOWER,
        embed_dim=16,
        projector="mlp:hidden=8",
        label="stamp",
        discrete=("stamp", "stamp_place"),
        continuous=("stamp_size",),
    )
    source = diptych.data.sources.open_source(f"{WORLD}:stamp=anywhere:count=8")
    method.setup({"train": source})
    stage = method.stages()[0]
    needs = method.needs(stage)
    assert {f"labels.{n}" for n in ("stamp", "stamp_place", "stamp_size")} < set(needs)
    plain, distorted, *_ = method.views(stage)
    assert plain.augment is None
    assert distorted.augment == method.augment
    batch = make_batch(8, {"main": 1, "distorted": 1}, kind=torch.arange(8) % 2 - 1)
    features = method.encode(batch, AT)
    assert features["common"].shape == (8, 2, 32)
    assert features["salient"].shape == (8, 1, 3)
    seen = method.model.project(batch.image.flat, "salient")
    torch.testing.assert_close(features["salient"][:, 0], seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discrete": ("a",), "continuous": ("a",)}, "an attribute is given twice"),
        ({"discrete": ("a",), "salient_dim": 2}, "each of the 1 attributes is one dimension"),
        ({"discrete": ("stamp_size",)}, "name it among the continuous attributes"),
        ({"continuous": ("stamp",)}, "name it among the discrete attributes"),
        ({"label": "stamp_size"}, "name a label of integers"),
        ({"background": "crosses"}, "unknown value of labels.stamp .* did you mean 'cross'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    source = diptych.data.sources.open_source(f"{WORLD}:stamp=anywhere:count=8")
    given = {"label": "stamp", **options}
    with pytest.raises(InputError, match=message):
        make_method("sepclr", text=NO_TOWER, embed_dim=16, **given).setup({"train": source})


def test_images_without_a_value_are_the_background_or_of_neither_kind():
    source = diptych.data.sources.open_source(f"{WORLD}:count=40")
    for background, rest in ((-1, 40), ("cross+heart", None)):
        method = held(label="stamp", background=background)
        method.setup({"train": source})
        kept = method.samples(method.stages()[0], "train", source)
        labels = [kept[at].labels["stamp"] for at in range(len(kept))]
        assert len(kept) == (rest or sum(s.labels["stamp"] >= 0 for s in source))
        expected = [
            value >= 0 if background == -1 else value not in method.background for value in labels
        ]
        assert method.is_target(torch.tensor(labels)).tolist() == expected
    assert len(method.background) == 2


def test_a_batch_without_both_kinds_is_refused_before_training(tmp_path, capsys):
    line = ["train", "sepclr", "--data", f"{WORLD.replace('0.5', '0.02')}:count=64", *SMALL]
    code = main(
        [*line, "--method.label", "stamp", "--batch-size", "16", "--out", str(tmp_path / "r")]
    )
    assert code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "every batch needs 2 samples with labels.stamp -1 and 2 others" in error


def test_published_overlays_train_on_the_command_line(tmp_path):
    """Digits on photographs and dSprites on grids, with small towers, as the page has them."""
    draw = np.random.default_rng(0)
    for name, side in (("cifar", 32), ("digits", 28), ("grids", 64)):
        for at in range(12):
            folder = tmp_path / name / "ab"[at % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 256, (side, side), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{at}.png")
    values = draw.random((9, 6))
    np.savez(
        tmp_path / "dsprites.npz",
        imgs=draw.integers(0, 2, (9, 64, 64), dtype=np.uint8),
        latents_values=values,
        latents_classes=np.stack([np.arange(9) % 3] * 6, 1),
    )
    digits = "digits:scale=0.875:place=middle:prefix=digit_"
    tower = ["--image-tower", "conv:image_size=16:widths=(8,8):depths=(1,1):pooling=mean"]
    steps = ["--batch-size", "12", "--steps", "1", "--quiet"]
    for preset, data, more in (
        ("paper", f"cifar:pasted={tmp_path}/{digits}", ["--method.label", "digit_class"]),
        ("dsprites", f"grids:pasted={tmp_path}/dsprites.npz:scale=1", []),
    ):
        out = ["--out", str(tmp_path / preset)]
        line = [
            "train",
            "sepclr",
            "--preset",
            preset,
            "--data",
            f"overlay:{tmp_path}/{data}",
            *more,
        ]
        assert main([*line, *tower, *steps, *out]) == 0
        assert (tmp_path / preset / "model.safetensors").exists()


def test_from_training_to_separation_on_the_command_line(tmp_path, capsys):
    run = str(tmp_path / "run")
    data = f"{WORLD}:stamp=anywhere:count=48"
    given = ["--method.discrete", "[stamp]", "--method.continuous", "[stamp_size]"]
    line = ["train", "sepclr", "--data", data, *SMALL, "--method.label", "stamp", *given]
    assert not main([*line, "--steps", "2", "--batch-size", "16", "--out", run])
    shown = capsys.readouterr().out
    assert "--suite separation --salient stamp --common LABEL" in shown
    model = diptych.load(run)
    assert model.spaces == ("common", "salient", "common_head", "salient_head")
    images = [sample.images["main"].decode() for sample in diptych.data.sources.open_source(data)]
    vectors = {space: model.space(space).project_images(images) for space in model.spaces}
    assert [x.shape[1] for x in vectors.values()] == [16, 16, 32, 2]
    with torch.no_grad():
        head = model.delivered.eval().heads["salient"](vectors["salient"])
    torch.testing.assert_close(head, vectors["salient_head"])
    torch.testing.assert_close(vectors["common"], model.project_images(images))
    assert not torch.allclose(vectors["common"], vectors["salient"])
    identities = {model.space(space).identity for space in model.spaces}
    assert len(identities) == 4
    evaluate = ["evaluate", run, "--data", data, "--suite", "separation", "--json"]
    assert not main([*evaluate, "--common", "size", "--salient", "stamp_place,stamp_size"])
    found = json.loads(capsys.readouterr().out)["separation"]
    assert set(found["by_space"]["chance"]) == {"size", "stamp_place", "stamp_size"}
    assert not main(["embed", run, data, "--space", "salient", "--out", str(tmp_path / "emb")])
    begun = ["train", "sepclr", "--init", run, "--data", data, "--method.label", "stamp"]
    assert (
        main([*begun, "--steps", "1", "--batch-size", "16", "--out", str(tmp_path / "next")]) == 2
    )
    assert "give the options that it was trained with" in capsys.readouterr().err
    assert not main(
        [*begun, *given, "--steps", "1", "--batch-size", "16", "--out", str(tmp_path / "next")]
    )
    assert main([*line, "--val", data, "--steps", "1", "--out", str(tmp_path / "val")]) == 2
    assert "leave out --val" in capsys.readouterr().err


def test_values_of_a_label_are_names_or_numbers():
    from diptych.data.sample import label_values

    toy = Toy(8, ["labels.colour"])
    assert label_values(toy, "colour", 3) == (3,)
    assert label_values(toy, "colour", "red+-1") == (0, -1)
    with pytest.raises(InputError, match="toy has no labels.size"):
        label_values(toy, "size", 0)
