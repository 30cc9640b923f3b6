"""S-VCO: log-probabilities of pairs against a slow reference, the column of the frozen reference, what is
computed and trained, and the models that training starts from."""

import math

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Rows
from tests.factories import AT, foreign_lm, make_method, small_make, tokenizer
from tests.methods.fuse.s_vco_helpers import qa, toy

from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sample import Field
from diptych.data.views import ArrayView
from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.fuse.cg_vlm import CGVLM
from diptych.methods.fuse.s_vco import GREY, SVCO
from diptych.methods.fuse.s_vco.losses import CONDITIONS
from diptych.methods.fuse.s_vco.pairs import REFERENCE
from diptych.methods.make import Make
from diptych.training.optim import freeze
from diptych.training.prepare import Run, with_columns

LM = "text:width=32:depth=2:heads=2"
START = 4 * math.log(2)


FIELDS = {f"texts.{role}": Field(kind="text") for role in ("question", "answer")}


def rows_of(samples):
    return Rows(samples, fields={**FIELDS, "edits": Field(kind="edit")})


def made(seed=0, **config):
    return make_method(SVCO, seed, **{"lm": LM, "role": "caption", **config}).eval()


def batch_of(method, source, prepare=True):
    """All pairs of a source in one batch, with the reference's column."""
    method.setup({"train": source})
    sources = {"train": source}
    [stage] = method.stages()
    if prepare and stage.prepare:
        run = Run(method, sources, AT, torch.device("cpu"), batch_size=4)
        stage.prepare(run)
        sources = with_columns(sources, run.columns)
    pairs = method.samples(stage, "train", sources["train"])
    views = method.views(stage)
    if not prepare:
        views = [view for view in views if not isinstance(view, ArrayView)]
    [found] = Loader(pairs, views, InOrder(), len(pairs)).epoch(0)
    return found


def losses_of(method, given):
    return method.loss(method.encode(given, AT), given, AT)


# ---- a pair


def slow_log_prob(model, image, prompt, response, blank=False):
    """A sum over the tokens of a response and its end, one at a time; no image where it is None."""
    words = model.words
    ids = [*words.before, *words.ids(prompt)]
    before = []
    if image is not None or blank:
        pixels = torch.full((1, 3, 32, 32), GREY, dtype=torch.uint8)
        if image is not None:
            pixels = model.image.preprocess.read(image)[None]
        seen = model.encoder.image(pixels)
        before = [model.adapter(seen.tokens[:, seen.prefix :])]
    total = 0.0
    for word in [*words.ids(response), *words.after]:
        read = torch.cat([*before, model.lm.table(torch.tensor([ids]))], 1)
        scores = model.lm.logits(model.lm(prefix=read)[0, -1]).tolist()
        total += scores[word] - math.log(sum(math.exp(score) for score in scores))
        ids.append(word)
    return total


@pytest.mark.parametrize("without", ["nothing", "blank"])
@torch.no_grad()
def test_log_probabilities_are_sums_over_the_response_behind_each_image_and_behind_none(without):
    method = made(prompt="a picture:", without=without).double()
    source = toy(2)
    given = batch_of(method, source, prepare=False)
    found = method.encode(given, AT)["log_prob"]
    sample = source[1]
    edit = sample.edits[2]
    images = {"w": sample.images["main"], "l": edit.images["main"], "": None}
    said = {"w": sample.captions()[0], "l": edit.captions()[0]}
    row = given.keys.index("001#3")
    for at, name in enumerate(CONDITIONS):
        image = images[name[1:]]
        expected = slow_log_prob(
            method.model, image, "a picture:", said[name[0]], blank=without == "blank"
        )
        assert float(found[row, at]) == pytest.approx(expected, abs=1e-6), name


@torch.no_grad()
def test_longer_responses_count_as_the_sum_of_their_tokens():
    method = made(role="answer").double()
    turns = [qa(0, ("how?", "red red red on the left"), edits=(qa(1, ("how?", "red")),))]
    given = batch_of(method, rows_of(turns), prepare=False)
    found = method.encode(given, AT)
    words = method.model.words
    expected = [len(words.ids(text)) + 1 for text in ("red red red on the left", "red")]
    assert found["words"].tolist() == [expected]
    for at, text in ((0, "red red red on the left"), (2, "red")):
        slow = slow_log_prob(method.model, turns[0].images["main"], "how?", text)
        assert float(found["log_prob"][0, at]) == pytest.approx(slow, abs=1e-6)


@torch.no_grad()
def test_questions_are_read_by_the_template_with_and_without_an_image():
    method = made(role="answer", template="on {} a").double()
    turns = [qa(0, ("the", "red"), edits=(qa(1, ("the", "green")),))]
    found = method.encode(batch_of(method, rows_of(turns), prepare=False), AT)["log_prob"][0]
    image = turns[0].images["main"]
    assert float(found[0]) == pytest.approx(
        slow_log_prob(method.model, image, "on the a", "red"), abs=1e-6
    )
    assert float(found[5]) == pytest.approx(
        slow_log_prob(method.model, None, "on the a", "green"), abs=1e-6
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, CONDITIONS),
        ({"objective": "vco"}, ("ww", "wl", "w")),
        ({"objective": "dpo"}, ("ww", "lw")),
        ({"objective": "sft"}, ("ww", "ll")),
        ({"betas": (0.1, 0.0, 0.1, 0.0)}, ("ww", "ll", "w", "l")),
        ({"betas": (0.1, 0.0, 0.1, 0.0), "report": True}, CONDITIONS),
    ],
)
@torch.no_grad()
def test_what_is_read_is_what_the_terms_compare(config, expected):
    method = made(**config)
    assert method.conditions == expected
    given = batch_of(method, toy(1), prepare=False)
    found = method.encode(given, AT)["log_prob"]
    whole = made().encode(given, AT)["log_prob"]
    for at, name in enumerate(CONDITIONS):
        there = whole[:, at] if name in expected else torch.zeros(len(given))
        assert torch.allclose(found[:, at], there, atol=1e-5), name


@pytest.mark.parametrize("negative", ["noise", "crop"])
@torch.no_grad()
def test_ablations_exchange_the_contradicting_image_alone(negative):
    method = made(negative=negative)
    given = batch_of(method, toy(1), prepare=False)
    found = method.encode(given, AT)["log_prob"]
    plain = made()
    whole = plain.encode(batch_of(plain, toy(1), prepare=False), AT)["log_prob"]
    for at, name in enumerate(CONDITIONS):
        same = torch.allclose(found[:, at], whole[:, at], atol=1e-5)
        assert same == (name not in ("wl", "lw")), name


# ---- the reference


def test_the_first_loss_is_that_of_equal_models_although_the_language_model_has_dropout():
    method = made(lm=f"{LM}:dropout=0.4").train()
    given = batch_of(method, toy(3))
    assert given.fields[REFERENCE].shape == (9, 6)
    found = losses_of(method, given)
    assert float(found.total.detach()) == pytest.approx(START, abs=1e-5)
    assert set(found.terms) == {"attend_w", "reject_w", "attend_l", "reject_l"}
    assert method.training
    assert method.model.lm.training


def test_the_reference_is_read_in_the_precision_of_the_training():
    method = made()
    source = toy(2)
    method.setup({"train": source})
    [stage] = method.stages()
    columns = {}
    for precision in ("float32", "bfloat16"):
        run = Run(method, {"train": source}, AT, torch.device("cpu"), precision=precision)
        stage.prepare(run)
        columns[precision] = torch.from_numpy(run.columns["train"][REFERENCE]).flatten(0, 1)
    given = batch_of(method, source, prepare=False)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = method.encode(given, AT)["log_prob"].float()
    assert torch.allclose(columns["bfloat16"].float(), found, atol=1e-4)
    assert not torch.allclose(columns["float32"], found, atol=1e-4)


def test_low_rank_factors_are_read_without_dropout_too(tmp_path):
    lm = foreign_lm(tmp_path / "lm", tokenizer())
    method = made(lm=lm, tune="lora:r=2:dropout=0.5:layers=q_proj+v_proj").train()
    with torch.no_grad():
        for parameter in method.model.factors.parameters():
            parameter.add_(0.3)
    given = batch_of(method, toy(1), prepare=False)
    one, other = (method.encode(given, AT)["log_prob"].detach() for _ in range(2))
    assert torch.equal(one, other)
    assert any(part.training for part in method.model.factors.modules())


@torch.no_grad()
def test_the_column_is_the_start_and_stays_while_the_policy_changes():
    method = made()
    source = toy(2)
    given = batch_of(method, source)
    before = method.encode(given, AT)["log_prob"]
    assert torch.allclose(given.fields[REFERENCE], before, atol=1e-5)
    for parameter in method.model.adapter.parameters():
        parameter.add_(0.5)
    after = method.encode(given, AT)["log_prob"]
    assert not torch.allclose(before, after, atol=1e-3)
    losses = method.loss({"log_prob": after}, given, AT)
    ratios = (after - before).double()
    expected = 0.0
    for row in ratios.tolist():
        ww, wl, lw, ll, w, l = row  # noqa: E741
        for margin in (ww - w, w - wl, ll - l, l - lw):
            expected += math.log1p(math.exp(-0.1 * margin)) / len(ratios)
    assert float(losses.total) == pytest.approx(expected, abs=1e-5)
    logged = losses.logged
    assert float(logged["reward_wl"]) == pytest.approx(float(ratios[:, 1].mean()), abs=1e-4)
    assert float(logged["distance_wl"]) == pytest.approx(float(ratios[:, 1].abs().mean()), abs=1e-4)
    margins = ratios[:, 4] - ratios[:, 1]
    assert float(logged["reject_w_margin"]) == pytest.approx(float(margins.mean()), abs=1e-4)
    share = float((margins > 0).double().mean())
    assert float(logged["reject_w_accuracy"]) == pytest.approx(share)


def test_samples_with_fewer_pairs_have_rows_that_no_pair_reads():
    method = made(role="answer")
    source = rows_of(
        [
            qa(0, ("how?", "red"), edits=(qa(1, ("how?", "green")), qa(2, ("how?", "blue")))),
            qa(3, ("how?", "red")),
            qa(4, ("how?", "on"), edits=(qa(5, ("how?", "the")),)),
        ]
    )
    given = batch_of(method, source)
    assert given.keys == ("s0#1", "s0#2", "s4#1")
    with torch.no_grad():
        found = method.encode(given, AT)["log_prob"]
    assert torch.allclose(given.fields[REFERENCE], found, atol=1e-5)


@torch.no_grad()
def test_terms_that_are_switched_off_are_logged_with_a_beta_of_a_tenth():
    method = made(betas=(0.3, 0.0, 0.3, 0.0), report=True)
    found = losses_of(method, batch_of(method, toy(1)))
    assert set(found.terms) == {"attend_w", "attend_l"}
    assert float(found.logged["reject_w_off"]) == pytest.approx(math.log(2), abs=1e-5)
    quiet = made(betas=(0.3, 0.0, 0.3, 0.0))
    logged = losses_of(quiet, batch_of(quiet, toy(1))).logged
    assert not any(name.startswith("reject") for name in logged)


# ---- baselines, and what is trained


@torch.no_grad()
def test_sft_is_the_mean_over_the_tokens_of_both_responses():
    method = made(objective="sft")
    [stage] = method.stages()
    assert stage.prepare is None
    given = batch_of(method, toy(2))
    features = method.encode(given, AT)
    total = features["log_prob"][:, 0].sum() + features["log_prob"][:, 3].sum()
    found = method.loss(features, given, AT)
    assert float(found.total) == pytest.approx(float(-total / features["words"].sum()), abs=1e-6)


def test_adapter_and_language_model_are_trained_and_the_image_tower_is_not():
    method = made()
    [stage] = method.stages()
    freeze(method, stage.lr_scale)
    losses_of(method, batch_of(method, toy(2))).total.backward()
    trained = {
        name.split(".")[1] for name, value in method.named_parameters() if value.grad is not None
    }
    assert trained == {"adapter", "own"}


# ---- the start


def saved(method, name, folder):
    options = {key: value for key, value in vars(method.config).items() if value is not None}
    description = store.describe(
        name, options, method.model, method.make.tokenizer, method.model.image.preprocess
    )
    store.save_model(folder, description, method.model.state_dict())
    return store.load(str(folder))


def test_training_goes_on_from_a_vision_language_model_with_its_options(tmp_path):
    first = make_method(CGVLM, seed=1, lm=LM, grid=1, template="ask: {}")
    start = saved(first, "cg_vlm", tmp_path / "run")
    same = {"lm": "tiny-lm", "role": "caption", "grid": 1, "template": "ask: {}"}
    method = make_method(SVCO, seed=2, make=Make.of(start), **same)
    for part in ("adapter", "own", "encoder"):
        given = getattr(first.model, part).state_dict()
        for name, value in getattr(method.model, part).state_dict().items():
            assert torch.equal(value, given[name]), (part, name)
    with pytest.raises(
        InputError, match="has grid 1, this one would have None; give --method.grid 1"
    ):
        make_method(SVCO, make=Make.of(start), **{**same, "grid": None})
    with pytest.raises(InputError, match="has template 'ask: {}'"):
        make_method(SVCO, make=Make.of(start), **{**same, "template": "{}"})
    with torch.no_grad():
        method.model.adapter[0].weight.add_(0.1)
        again = saved(method, "s_vco", tmp_path / "tuned")
        images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
        model = method.model.to_model(method.make.tokenizer, method.model.image.preprocess, "mine")
        assert torch.equal(again.log_prob(images, ["red"]), model.log_prob(images, ["red"]))


def test_a_start_without_a_language_model_is_refused_unless_it_is_allowed(tmp_path):
    clip = make_method("clip")
    description = store.describe(
        "clip", {}, clip.model, clip.make.tokenizer, clip.model.image.preprocess
    )
    store.save_model(tmp_path / "clip", description, clip.model.state_dict())
    make = Make.of(store.load(str(tmp_path / "clip")))
    with pytest.raises(InputError, match="start from one, such as a RUN of cg_vlm"):
        make_method(SVCO, make=make, lm=LM)
    assert make_method(SVCO, make=make, lm=LM, new_adapter=True).model.adapter is not None


def test_bad_options_and_sources():
    with pytest.raises(InputError, match="has no place for a question"):
        made(template="ask")
    with pytest.raises(InputError, match="all betas that svco reads are 0"):
        made(betas=(0.0, 0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="start from a model with an image tower"):
        make_method(SVCO, make=small_make(image="none"), lm=LM)
    with pytest.raises(InputError, match="texts.question"):
        made(role="answer").setup({"train": toy()})
    long = made(length=4)
    given = batch_of(long, toy(1), prepare=False)
    assert int(given.text.lengths.max()) == 4
    assert np.all(
        np.array(tokenizer().before) == given.text.ids[0, 0, : len(tokenizer().before)].numpy()
    )
