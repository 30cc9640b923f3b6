"""Distillation by the error of a denoiser: the published figures, the loss by loops, what is trained
and what stays, the teacher's own words, and the way from a world to a number."""

import json
import math

import pytest
import torch
from tests.factories import AT, make_batch, make_method
from torch import nn
from torch.nn.functional import normalize

from diptych.data.sources import open_source
from diptych.data.views import NoiseView
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.methods.base import Recipe
from diptych.methods.robust.sds_clip import HELD_OUT, SDSCLIP, LatentMapper, NoiseTeacher
from diptych.methods.store import load
from diptych.methods.tuning import norm_rates
from diptych.testing import Toy
from diptych.testing.subject import toy_denoiser
from diptych.towers.nn.denoiser import Denoiser, DenoiserConfig, noise_errors, noised
from diptych.towers.nn.parts import checksum
from diptych.training.config import resolve
from diptych.training.engine import Engine
from diptych.training.options import Options
from diptych.training.run import run

Z = torch.tensor([[1.0, -1, 2, 0]], dtype=torch.float64)
NOISE = torch.tensor([[0.5, 0.5, -0.5, 1]], dtype=torch.float64)
KEPT = 0.36


class Stub(nn.Module):
    """A denoiser of one time, given as a function of z_t."""

    def __init__(self, predict):
        super().__init__()
        self.predict = predict

    def noised(self, x, noise, time):
        return noised(x, noise, torch.full((len(x),), KEPT, dtype=x.dtype))

    def forward(self, x, time, rows, mask):
        return self.predict(x)


def error(predict, z):
    """The sum of the squared errors, as it is published."""
    return 4 * noise_errors(Stub(predict), z, NOISE, torch.zeros(1), None, None).sum()  # type: ignore[arg-type]


def test_published_figures_of_a_linear_network():
    k = 0.8
    z = Z.clone().requires_grad_()
    found = error(lambda x: k * x, z)
    assert float(found.detach()) == pytest.approx(1.9548, abs=1e-6)
    assert float(found.detach()) / 4 == pytest.approx(0.4887, abs=1e-6)
    [gradient] = torch.autograd.grad(found, z)
    assert gradient.tolist()[0] == pytest.approx([0.288, -0.6336, 1.0944, -0.3456])
    z_t = Stub(None).noised(Z, NOISE, None)
    assert z_t.tolist()[0] == pytest.approx([1, -0.2, 0.8, 0.8])
    without_jacobian = math.sqrt(KEPT) * (k * z_t - NOISE)
    assert without_jacobian.tolist()[0] == pytest.approx([0.18, -0.396, 0.684, -0.216])
    torch.testing.assert_close(gradient / without_jacobian, torch.full_like(Z, 2 * k))


def test_a_network_that_predicts_nothing_gives_the_length_of_the_noise_and_no_gradient():
    mapper = LatentMapper(3, (4,)).double()
    vector = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    found = error(lambda x: 0 * x, mapper(vector))
    assert float(found.detach()) == pytest.approx(1.75)
    found.backward()
    assert vector.grad is not None
    for gradient in (vector.grad, *(each.grad for each in mapper.parameters())):
        assert gradient is not None
        assert gradient.abs().max() == 0


def test_of_who_knows_the_captions_latent_the_loss_pulls_towards_it():
    of_caption = torch.ones_like(Z)
    z = Z.clone().requires_grad_()
    found = error(lambda x: (x - KEPT**0.5 * of_caption) / (1 - KEPT) ** 0.5, z)
    assert float(found.detach()) == pytest.approx(3.375)
    [gradient] = torch.autograd.grad(found, z)
    torch.testing.assert_close(gradient, 2 * KEPT / (1 - KEPT) * (Z - of_caption))


def test_the_gradient_through_the_network_is_that_of_differences():
    torch.manual_seed(0)
    denoiser = Denoiser(4, DenoiserConfig(size=4, patch=2, width=16, depth=1, heads=2, steps=9))
    nn.init.normal_(denoiser.out.weight, std=0.1)
    denoiser = denoiser.double().requires_grad_(False)
    mapper = LatentMapper(3, (3, 4, 4)).double()
    noise = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    rows = torch.randn(2, 2, 4, dtype=torch.float64)
    mask = torch.ones(2, 2, dtype=torch.bool)
    vectors = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def errors(vectors):
        return noise_errors(denoiser, mapper(vectors), noise, torch.tensor([1, 6]), rows, mask)

    assert torch.autograd.gradcheck(errors, vectors)


def method(**config):
    options = {"denoiser": toy_denoiser().name, "augment": None, **config}
    made = make_method(SDSCLIP, text="text:width=32:depth=1:heads=2:causal=false", **options)
    made.setup({"train": Toy(8)})
    return made


def batch(made):
    shape = made.teacher.module.shape
    return make_batch(
        3,
        {"main": 1},
        {"main": 1, "teacher": 1},
        noise=torch.randn(3, *shape, dtype=torch.float64),
        time=torch.tensor([0, 400, 999]),
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_that_of_loops(reduction):
    made = method(weight=0.3, reduction=reduction).double().eval()
    teacher = made.teacher.module
    given = batch(made)
    with torch.no_grad():
        losses = made.loss(made.encode(given, AT), given, AT)
        vectors = made.model.project_image(made.model.image(given.image.flat).pooled)
        texts = made.model.embed_texts(*given.text.flat).tolist()
        scale = float(made.model.logit_scale())
        images = normalize(vectors, dim=1).tolist()
        logits = [[scale * sum(map(float.__mul__, x, y)) for y in texts] for x in images]
        clip = 0.0
        for table in (logits, list(zip(*logits, strict=True))):
            for at, line in enumerate(table):
                clip += (math.log(sum(map(math.exp, line))) - line[at]) / 6
        weight, bias = (each.tolist() for each in made.mapper.linear.parameters())
        errors = []
        for at, vector in enumerate(vectors.tolist()):
            z = [
                sum(map(float.__mul__, line, vector)) + b
                for line, b in zip(weight, bias, strict=True)
            ]
            time = given.fields["time"][at]
            kept = float(teacher.kept[time])
            e = given.fields["noise"][at].flatten().tolist()
            z_t = [math.sqrt(kept) * a + math.sqrt(1 - kept) * b for a, b in zip(z, e, strict=True)]
            ids, lengths = given.texts["teacher"].flat
            rows, mask = teacher.rows(ids[at : at + 1], lengths[at : at + 1])
            noisy = torch.tensor(z_t, dtype=torch.float64).view(1, *teacher.shape)
            predicted = teacher(noisy, time[None], rows, mask).flatten().tolist()
            errors.append(sum((a - b) ** 2 for a, b in zip(predicted, e, strict=True)))
    total = sum(errors) / 3
    numbers = math.prod(teacher.shape)
    assert float(losses.terms["contrastive"]) == pytest.approx(clip, rel=1e-6)
    expected = 0.3 * (total if reduction == "sum" else total / numbers)
    assert float(losses.terms["sds"]) == pytest.approx(expected, rel=1e-5)
    assert float(losses.logged["error_sum"]) == pytest.approx(total, rel=1e-5)
    assert float(losses.logged["error_mean"]) == pytest.approx(total / numbers, rel=1e-5)


def trained(made, out, steps=3, **recipe):
    """The state before and after a run of some steps."""
    out.mkdir()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    recipe = Recipe(lr=1e-2, batch_size=8, steps=steps, **recipe)
    Engine(made, recipe, {"train": Toy(16)}, out, Options(quiet=True)).run()
    return before, made.state_dict()


def test_norms_and_map_learn_and_all_else_stays_to_the_bit(tmp_path):
    made = method(weight=1.0)
    network = checksum(made.teacher.module)
    before, after = trained(made, tmp_path / "run")
    norms = {
        f"model.{name}"
        for name, part in made.model.named_modules()
        if isinstance(part, nn.LayerNorm)
    }
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in moved if name.startswith("mapper.")}
    own = {name for name in moved if name.startswith("model.")}
    assert own
    assert {name.rpartition(".")[0] for name in own} == norms
    assert torch.equal(checksum(made.teacher.module), network)
    assert not any(name.startswith("teacher.") and "checksum" not in name for name in after)


def test_without_weight_or_without_a_way_to_the_vectors_it_is_clip_on_its_norms(tmp_path):
    alone = method(weight=0.0, denoiser="", warm={"steps": 5})
    assert alone.teacher is None
    assert len(alone.stages()) == 1
    cut = method(weight=1.0)
    setup = cut.setup

    def detached(sources):
        setup(sources)
        mapper = cut.mapper
        mapper.forward = lambda x: LatentMapper.forward(mapper, x.detach())

    cut.setup = detached
    _, one = trained(alone, tmp_path / "alone")
    _, other = trained(cut, tmp_path / "cut")
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], msg=name)


def test_a_model_without_norms_is_refused():
    with pytest.raises(InputError, match="no norms with weights to train"):
        norm_rates(
            "model", nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2, elementwise_affine=False))
        )


def test_the_map_is_trained_first_where_it_is_asked_for():
    made = method(weight=1.0, warm={"steps": 5, "lr": 0.1})
    first, second = made.stages()
    assert (first.name, first.recipe) == ("map", {"steps": 5, "lr": 0.1})
    assert first.lr_scale == {"model": 0.0}
    assert second.lr_scale["model"] == 0.0
    assert set(second.lr_scale.values()) == {0.0, 1.0}


def test_the_teacher_reads_the_same_text_in_its_own_tokens():
    made = method(weight=1.0)
    [stage] = made.stages()
    _, text, words, noise = made.views(stage)
    assert words.tokenizer is made.teacher.model.tokenizer
    assert words.tokenizer is not text.tokenizer
    assert (words.like, words.role) == ("texts.main", text.role)
    assert isinstance(noise, NoiseView)
    assert (noise.shape, noise.steps) == ((3, 16, 16), 1000)


def test_times_are_drawn_between_two_shares():
    made = method(weight=1.0, times=(0.2, 0.7))
    assert made._times() == (200, 700)
    assert made.views(made.stages()[0])[-1].steps == 500


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"denoiser": "", "weight": 1.0},
            "no denoiser is given; train one with `diptych train denoise`",
        ),
        ({"decay": 0.5}, "decay is of whole layers"),
        ({"times": (0.5, 0.5)}, "holds no time"),
        ({"role": "caption;long"}, "names several texts"),
    ],
)
def test_options_that_do_not_fit_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        method(**config)


def test_a_teacher_that_predicts_no_noise_and_a_model_without_a_tower_are_refused():
    with pytest.raises(InputError, match="tiny predicts no noise; name a RUN of denoise"):
        _ = NoiseTeacher("tiny").model
    with pytest.raises(InputError, match="the denoiser cannot be loaded: there is no model at"):
        _ = NoiseTeacher("runs/none").model
    with pytest.raises(InputError, match="lacks one of the towers"):
        make_method(SDSCLIP, text="none", weight=0.0)
    with pytest.raises(InputError, match="leave out --data held_out"):
        make_method(SDSCLIP, weight=0.0).setup({"train": Toy(4), HELD_OUT: Toy(4)})


def test_from_a_world_to_the_error_on_held_out_pairs(tmp_path):
    """The start and the teacher learn the same pairs; what is left is a plain CLIP."""
    world = "scenes:number=2:same=0:size=32:texts=caption:drop=0:objects=shapes"
    text = "text:width=16:depth=1:heads=2:causal=false"
    shared = {"text_tower": text, "embed_dim": 16, "options": {"seed": 0, "quiet": True}}
    recipe = {"steps": 2, "batch_size": 8, "ema": None}
    data = {"train": f"{world}:count=16"}
    conv = "conv:image_size=32:widths=(8,16):depths=(1,1)"
    settings = resolve("clip", data, image_tower=conv, recipe=recipe, **shared)
    run(settings, tmp_path / "start")
    size = {"size": 8, "patch": 4, "width": 16, "depth": 1}
    settings = resolve("denoise", data, config=size, recipe=recipe, **shared)
    run(settings, tmp_path / "denoiser")
    settings = resolve(
        "sds_clip",
        {**data, HELD_OUT: f"{world}:split=val:count=6"},
        init=str(tmp_path / "start"),
        config={"denoiser": str(tmp_path / "denoiser"), "warm": {"steps": 2}},
        recipe=recipe,
        options=shared["options"],
    )
    run(settings, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "sds_error.json").read_text())
    assert written["n"] == 6
    assert 0.2 < written["error"] < 0.8
    swaps = open_source(f"{world}:split=val:edits=swap:count=6")
    found = evaluate(load(tmp_path / "run"), swaps, ["composition"])["composition"]
    assert found["n"] == 6
    stored = json.loads((tmp_path / "run" / "model.json").read_text())
    assert stored["kept"] == {}
    assert all("mapper" not in name for name in load(tmp_path / "run").encoder.state_dict())
