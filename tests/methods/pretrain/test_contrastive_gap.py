"""The contrastive gap's losses against the published figures, its options, and how it begins from a
given model."""

import math

import pytest
import torch
from tests.cli.helpers import TINY
from tests.factories import AT, det, make_method
from tests.methods.pretrain.helpers import given_model
from tests.training.helpers import make_engine, read_log
from torch.nn import functional as F

from diptych.cli import main
from diptych.errors import InputError
from diptych.methods.make import Make
from diptych.methods.pretrain.contrastive_gap import ContrastiveGap
from diptych.objectives import alignment, uniformity
from diptych.testing import Toy
from diptych.training.config import read

U_X, U_Y, L_XU, L_ALIGN, L_CLIP = (
    -2.6798140294,
    -2.7589403850,
    -1.3584978067,
    1.3859525013,
    50.4690065818,
)


def gap_method(make=None, **config):
    return make_method(ContrastiveGap, make=make, **config)


def anchors():
    return {"image": det(4, 3, 0), "text": det(4, 3, 1)}


@pytest.mark.parametrize(
    ("config", "figure"),
    [
        ({"mode": "clip"}, L_CLIP),
        ({"mode": "cua"}, 49.1355818759),
        ({"mode": "cuaxu"}, 47.7770840692),
        ({"mode": "cua", "remove_contrastive": True}, 49.1355818759 - L_CLIP),
        ({"mode": "cuaxu", "remove_contrastive": True}, 47.7770840692 - L_CLIP),
        ({"mode": "cua", "align": 0.0}, L_CLIP + (U_X + U_Y) / 2),
        ({"mode": "cua", "uniform": -1.0}, L_CLIP + L_ALIGN - (U_X + U_Y) / 2),
        ({"mode": "cuaxu", "cross": 3.0}, 47.7770840692 + 2 * L_XU),
    ],
)
def test_sheets_anchors_of_the_losses(config, figure):
    losses = gap_method(**config).loss(anchors(), None, AT)
    assert losses.total.item() == pytest.approx(figure, abs=1e-5)  # the scale is float32
    assert float(losses.logged["centroid_distance"]) == pytest.approx(0.3524026543, abs=1e-9)
    assert float(losses.logged["scale"]) == 100


def test_equal_embeddings_leave_log_n():
    x = F.normalize(torch.ones(6, 3), dim=1)
    for mode in ("clip", "cua", "cuaxu"):
        loss = gap_method(mode=mode).loss({"image": x, "text": x}, None, AT)
        assert loss.total.item() == pytest.approx(math.log(6), abs=1e-4)


def test_the_width_of_the_potential_is_an_option():
    given = anchors()
    loss = gap_method(mode="cua", remove_contrastive=True, t=3.0).loss(given, None, AT)
    right = alignment(given["image"], given["text"])
    right = right + (uniformity(given["image"], 3.0) + uniformity(given["text"], 3.0)) / 2
    torch.testing.assert_close(loss.total, right)


def test_local_terms_are_the_mean_of_those_of_the_parts():
    """What ranks of 4 pairs each would find, which then average: in order, and at any number of
    ranks."""
    generator = torch.Generator().manual_seed(0)
    given = {
        name: F.normalize(torch.randn(12, 8, generator=generator), dim=1)
        for name in ("image", "text")
    }
    apart = [
        gap_method(mode="cuaxu").loss({n: v[i : i + 4] for n, v in given.items()}, None, AT).total
        for i in (0, 4, 8)
    ]
    local = gap_method(mode="cuaxu", local=4).loss(given, None, AT)
    torch.testing.assert_close(local.total, torch.stack(apart).mean())
    assert abs(local.total - gap_method(mode="cuaxu").loss(given, None, AT).total) > 0.1
    # A part takes at most so many: 12 pairs in parts of 5 are three of 4.
    torch.testing.assert_close(
        gap_method(mode="cuaxu", local=5).loss(given, None, AT).total, local.total
    )


def test_a_single_pair_left_over_has_no_spread_and_no_gradient_that_is_not_a_number():
    x, y = (t[:1].clone().requires_grad_() for t in anchors().values())
    loss = gap_method(mode="cuaxu").loss({"image": x, "text": y}, None, AT).total
    torch.testing.assert_close(loss, alignment(x, y))
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


def test_gradient_reaches_both_sides_from_every_term():
    for config in ({"mode": "clip"}, {"mode": "cua", "remove_contrastive": True}):
        given = {name: value.requires_grad_() for name, value in anchors().items()}
        grads = torch.autograd.grad(
            gap_method(**config).loss(given, None, AT).total, list(given.values())
        )
        assert all(grad.abs().sum(1).min() > 0 for grad in grads)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mode": "cuax"}, "did you mean 'cuaxu'"),
        ({"mode": "clip", "remove_contrastive": True}, "no term but the contrastive"),
        ({"tau": 0.0}, "above 0"),
        ({"local": 1}, "'local' of method ContrastiveGap is 1"),
        ({"uniformity": 2.0}, "did you mean 'uniform'"),
    ],
)
def test_options_that_do_not_fit_are_named(config, message):
    with pytest.raises(InputError, match=message):
        ContrastiveGap.configure(config)


def test_the_temperature_is_fixed_unless_it_is_to_be_learned():
    fixed, learned = gap_method(), gap_method(learned=True)
    assert not [name for name, _ in fixed.named_parameters() if "scale" in name]
    assert [name for name, _ in learned.named_parameters() if "scale" in name] == [
        "model.logit_scale.value"
    ]
    assert float(learned.model.logit_scale().detach()) == pytest.approx(100)
    colder = gap_method(learned=True, tau=0.005)
    colder.model.logit_scale.clamp_()
    assert float(colder.model.logit_scale().detach()) == pytest.approx(200)


def test_a_fixed_temperature_takes_the_place_of_a_learned_scale():
    model = given_model()
    assert float(gap_method(Make.of(model)).model.logit_scale()) == 100
    kept = gap_method(Make.of(model), learned=True).model.logit_scale()
    assert torch.equal(kept, model.encoder.logit_scale())


def test_new_projections_leave_a_given_models_towers_as_they_are():
    model = given_model()
    method = gap_method(Make.of(model), reproject=12)
    assert method.model.embed_dim == 12
    old, new = model.encoder.state_dict(), method.model.state_dict()
    assert new["image_projection.weight"].shape == (12, 32)
    assert new["text_projection.weight"].shape == (12, 32)
    for name, value in new.items():
        assert name.endswith("projection.weight") or torch.equal(value, old[name])
    kept = gap_method(Make.of(model)).model.state_dict()
    assert torch.equal(kept["image_projection.weight"], old["image_projection.weight"])


def test_a_run_logs_every_term_and_the_gap(tmp_path):
    engine = make_engine(tmp_path, method=gap_method(mode="cuaxu"), recipe={"steps": 2})
    engine.run()
    line = read_log(tmp_path)[0]
    names = ("contrastive", "alignment", "uniformity", "cross_uniformity")
    assert line["loss"] == pytest.approx(sum(line[f"loss/{name}"] for name in names), abs=1e-4)
    assert {"scale", "centroid_distance"} <= set(line)


def test_a_label_keeps_identical_texts_apart():
    """The toy's label `colour` is in its captions: with it no batch holds one colour twice."""
    method = gap_method(distinct="colour")
    (stage,) = method.stages()
    source = Toy(48, ("images.main", "texts.caption", "labels.colour"))
    colours = source.labels("colour")
    batches = stage.plan(source, 0, 0, 8)
    assert sum(map(len, batches)) == 48
    assert all(len(set(colours[batch])) == len(batch) for batch in batches)


def test_the_command_line_sets_its_options_and_takes_them_from_a_file(tmp_path, pairs_csv):
    words = ["--method.mode=cuaxu", "--method.remove_contrastive=true", "--method.local=4"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert (
        main(
            [
                "train",
                "contrastive_gap",
                f"--data={pairs_csv}",
                *TINY,
                *words,
                "--quiet",
                f"--out={first}",
            ]
        )
        == 0
    )
    assert main(["train", f"--config={first / 'config.yaml'}", "--quiet", f"--out={second}"]) == 0
    for out in (first, second):
        given = read(out / "config.yaml")["config"]
        assert (given["mode"], given["remove_contrastive"], given["local"]) == ("cuaxu", True, 4)
        assert "loss/contrastive" not in read_log(out)[0]
