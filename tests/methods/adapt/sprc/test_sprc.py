"""SPRC: the published counts, which term hangs on what, what stays frozen, and its way from pairs to
triples."""

import json
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from tests.factories import AT, IMAGE, TEXT, make_batch, make_method
from torch.nn.functional import cosine_similarity, normalize

import diptych
from diptych.data.batch import Batch
from diptych.data.plan import Having, Shuffled, Together
from diptych.data.sources import open_source
from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.front.training import validation
from diptych.methods.adapt.sprc import SPRC
from diptych.methods.adapt.sprc.composer import ComposerModel, cleaned
from diptych.methods.adapt.sprc.objectives import hard_negatives
from diptych.methods.make import NO_TOWER, Make
from diptych.models.model import Model
from diptych.rng import generator
from diptych.testing import check as suite
from diptych.training.config import resolve
from diptych.training.run import run

SMALL = {"width": 16, "depth": 2, "heads": 2, "queries": 3, "embed": 12, "dropout": 0.0}
SCENES = "scenes:objects=shapes:number=2-3:same=0:size=32:siblings=6:texts=caption"


def method(text=TEXT, **config):
    return make_method(SPRC, text=text, embed_dim=16, **{**SMALL, **config}).eval()


def batch(count=4, seed=0):
    drawn = make_batch(count, {"main": 1, "reference": 1}, {"main": 1}, seed=seed)
    words = replace(drawn.texts["main"], lengths=torch.tensor([[5], [3], [4], [5]])[:count])
    return replace(drawn, texts={"main": words})


def terms(made, given):
    return made.loss(made.encode(given, AT), given, AT).terms


def test_as_many_numbers_as_the_sheet_counts():
    with torch.device("meta"):
        make = Make(image=IMAGE, text=TEXT, embed_dim=16, tokenizer=build("clip"))
        made = SPRC(SPRC.configure({}), make)
    assert made.model.qformer.queries.numel() == 24_576
    assert made.auxiliary.numel() == 24_576
    for head in (made.model.image_projection, made.model.text_projection):
        assert sum(parameter.numel() for parameter in head.parameters()) == 196_864
    assert 1 / method().model.logit_scale().item() == pytest.approx(0.07)


def test_the_terms_are_those_of_the_equation():
    """From the modules, one sample and one token at a time."""
    made, given = method(rtc=0.3, align=0.7), batch()
    model, (ids, lengths) = made.model, given.text.flat
    with torch.no_grad():
        found = terms(made, given)
        targets, queries, auxiliary, means = [], [], [], []
        for at in range(4):
            row, length = ids[at : at + 1], lengths[at : at + 1]
            tokens = [
                model.norm(model.encoder.image(given.images[name].pixels[at]).tokens)
                for name in given.images
            ]
            targets.append(
                normalize(model.image_projection(model.qformer(memory=tokens[0]).tokens[0]), dim=-1)
            )
            prompt = model.qformer(row, length, memory=tokens[1]).tokens[:, :3]
            means.append(prompt[0].mean(0))
            for rows, how in (
                (queries, {"queries": prompt}),
                (auxiliary, {"inserted": made.auxiliary}),
            ):
                first = model.qformer(row, length, **how)
                rows.append(
                    normalize(
                        model.text_projection(first.tokens[:, 3 if "queries" in how else 0]), dim=-1
                    )[0]
                )
        for name, rows, weight in (("itc", queries, 1.0), ("rtc", auxiliary, 0.3)):
            logits = (
                torch.stack([torch.stack([(g @ f).max() for g in targets]) for f in rows]) / 0.07
            )
            loss = (logits.logsumexp(1) - logits.diagonal()).mean()
            torch.testing.assert_close(found[name], weight * loss, atol=1e-4, rtol=1e-4)
        wanted = made.auxiliary.mean(0)
        gaps = torch.stack([(mean - wanted).square().mean() for mean in means])
        torch.testing.assert_close(found["align"], 0.7 * gaps.mean())


def test_the_learned_prompt_hears_of_one_term_and_knows_no_reference():
    made, given = method(), batch()
    other = Batch(
        images={**given.images, "reference": batch(seed=9).images["reference"]},
        texts=given.texts,
        keys=given.keys,
    )
    one, two = terms(made, given), terms(made, other)
    assert torch.equal(one["rtc"], two["rtc"])
    assert not torch.equal(one["itc"], two["itc"])
    gradients = {
        name: torch.autograd.grad(term, made.auxiliary, allow_unused=True)[0]
        for name, term in one.items()
    }
    assert gradients["itc"] is None
    assert gradients["align"] is None
    assert gradients["rtc"].abs().sum() > 0
    one = terms(made, given)
    assert (
        torch.autograd.grad(one["rtc"], made.model.image_projection.weight)[0].abs().sum() > 0
    )  # targets learn too


@pytest.mark.parametrize(
    ("config", "names", "frozen"),
    [
        ({}, {"itc", "rtc", "align"}, False),
        ({"rtc": 0.0}, {"itc", "align"}, True),
        ({"align": 0.0}, {"itc", "rtc"}, False),
        ({"rtc": 0.0, "align": 0.0}, {"itc"}, None),
        ({"task": "pairs"}, {"itc", "itm"}, None),
    ],
)
def test_what_is_weighed_by_nothing_is_not_computed(config, names, frozen):
    made = method(**config)
    assert terms(made, batch()).keys() == names
    assert (
        (made.auxiliary is None) if frozen is None else (made.auxiliary.requires_grad is not frozen)
    )


def test_the_encoder_stays_and_all_else_learns():
    made = method().train()
    made.loss(made.encode(batch(), AT), batch(), AT).total.backward()
    for name, parameter in made.named_parameters():
        assert (parameter.grad is None) == name.startswith("model.encoder."), name


def test_one_kept_vector_is_a_pseudo_word_and_one_triple_costs_nothing():
    made = method(prompts=1, rtc=0.0, align=0.0)
    found = made.encode(batch(1), AT)
    assert made.model.prompt(made.model.look(batch(1).image.flat), *batch(1).text.flat).shape == (
        1,
        1,
        16,
    )
    assert made.loss(found, batch(1), AT).total.item() == 0
    with pytest.raises(
        InputError, match="a prompt of 4 vectors cannot be kept of the Q-Former's 3"
    ):
        method(prompts=4)


def test_pairs_retrieve_each_other_and_are_told_from_hard_negatives():
    """Both losses from the state alone, pair by pair; the negatives are those that the seed and the
    step give."""
    made = method(task="pairs").double()
    given = batch()
    found = made.encode(given, AT)
    ids, lengths = given.text.flat
    alone = made.model.qformer(ids, lengths)
    expected = normalize(made.model.text_projection(alone.tokens[:, 0]), dim=-1)
    torch.testing.assert_close(found["query"], expected)
    logits = torch.einsum("ie,jke->ijk", found["query"], found["targets"]).amax(2) / 0.07
    own = torch.arange(4)
    both = [torch.nn.functional.cross_entropy(each, own) for each in (logits, logits.T)]
    losses = made.loss(found, given, AT)
    torch.testing.assert_close(losses.terms["itc"], sum(both) / 2)
    rng = generator(AT.seed, "matching", AT.step)
    images = hard_negatives(logits, rng).tolist()
    texts = hard_negatives(logits.T, rng).tolist()
    assert all(at not in (images[at], texts[at]) for at in range(4))
    surprise = []
    for at in range(4):
        for image, text in ((at, at), (images[at], at), (at, texts[at])):
            joint = made.model.qformer(
                ids[text, None], lengths[text, None], memory=found["tokens"][image, None]
            )
            scores = made.match(joint.tokens[0, : joint.prefix]).mean(0)
            surprise.append(-scores.log_softmax(0)[int(image == text)])
    torch.testing.assert_close(losses.terms["itm"], sum(surprise) / 12)


def test_matching_trains_the_pass_that_reads_both():
    made = method(task="pairs").train()
    found = made.encode(batch(), AT)
    made.loss(found, batch(), AT).terms["itm"].backward()
    crossed = made.model.qformer.layers[0].cross
    assert all(weight.grad.abs().sum() > 0 for weight in crossed.parameters() if weight.dim() > 1)
    one = made.encode(batch(1), AT)
    assert made.loss(one, batch(1), AT).terms["itc"].item() == 0  # and no negative to draw


def test_texts_are_cut_and_images_are_given_bars():
    made, given = method(length=4, ratio=1.25), batch()
    ids, lengths = given.text.flat
    assert made.model.words(ids, lengths)[0].shape == (4, 4)
    assert made.model.words(ids, lengths)[1].tolist() == [4, 3, 4, 4]
    assert made.model.image.preprocess.ratio == 1.25
    assert method(ratio=None).model.image.preprocess.ratio is None
    views = made.views(made.stages()[0])
    assert [view.reads for view in views] == [
        ("images.main",),
        ("images.reference",),
        ("texts.instruction",),
    ]
    assert {view.augment for view in views[:2]} == {None}
    assert method(augment={"flip": True}).views(made.stages()[0])[0].augment.flip
    assert method(task="pairs").needs(method(task="pairs").stages()[0]) == (
        "images.main",
        "texts.caption",
    )


def test_siblings_meet_where_asked():
    assert method().stages()[0].plan == Having("reference", Shuffled())
    assert method(together=5).stages()[0].plan == Having("reference", Together(5))
    assert method(task="pairs", together=3).stages()[0].plan == Together(3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"task": "pair"}, "did you mean 'pairs'"),
        ({"rtc": -1.0}, "'rtc' of method SPRC is -1.0"),
        ({"together": 0}, "'together' of method SPRC is 0"),
        ({"queries": 0}, "'queries' of method SPRC is 0"),
        ({"ratio": 0.5}, "'ratio' of method SPRC is 0.5"),
        ({"augment": {"flp": True}}, "did you mean 'flip'"),
    ],
)
def test_bad_options_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        method(**config)


def test_a_model_without_texts_is_refused():
    with pytest.raises(InputError, match="came without a tokenizer"):
        method(NO_TOWER)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A base model; a run on pairs from it; a run on triples from that."""
    folder = tmp_path_factory.mktemp("sprc")

    def train(name, method, data, steps, **settings):
        config = resolve(
            method,
            {"train": data},
            recipe={"steps": steps, "batch_size": 10, "ema": None, "lr": 2e-3},
            options={"quiet": True},
            **settings,
        )
        run(config, folder / name)

    train(
        "base",
        "clip",
        f"{SCENES}:count=60",
        3,
        config={"augment": {}},
        image_tower="conv:image_size=32:widths=(16,24):depths=(1,1)",
        text_tower="text:width=32:depth=1",
        tokenizer="bpe:vocab_size=400:context=24",
        embed_dim=16,
    )
    train(
        "pairs",
        "sprc",
        f"{SCENES}:count=60",
        4,
        init=str(folder / "base"),
        config={**SMALL, "task": "pairs"},
    )
    train(
        "sprc",
        "sprc",
        f"{SCENES}:count=60",
        40,
        init=str(folder / "pairs"),
        config={**SMALL, "together": 5},
    )
    return folder


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_training_lowers_the_loss_and_ignores_samples_without_a_reference(runs):
    reported = losses(runs / "sprc")
    assert {"loss/itc", "loss/rtc", "loss/align"} <= reported[0].keys()
    first, last = (sum(line["loss/itc"] for line in part) for part in (reported[:8], reported[-8:]))
    assert last < first
    assert json.loads((runs / "sprc" / "model.json").read_text())["training"]["damaged"] == {}


def test_a_run_on_triples_begins_as_the_run_on_pairs(runs, tmp_path):
    pairs, base = diptych.load(runs / "pairs"), diptych.load(runs / "base")
    assert isinstance(pairs, ComposerModel)
    started = SPRC(SPRC.configure({**SMALL, "together": 5}), Make.of(pairs))
    for name, value in pairs.composer.state_dict().items():
        assert torch.equal(value, started.model.state_dict()[name])
    fresh = SPRC(SPRC.configure(SMALL), Make.of(base))
    assert not torch.equal(fresh.model.qformer.queries, started.model.qformer.queries)
    for made in (started, fresh, SPRC(SPRC.configure(SMALL), Make.of(diptych.load(runs / "sprc")))):
        for name, value in base.encoder.state_dict().items():
            assert torch.equal(value, made.model.encoder.state_dict()[name])
    with pytest.raises(
        InputError, match=r"this one would have .*; give the options that it was trained with"
    ):
        SPRC(SPRC.configure({**SMALL, "queries": 5}), Make.of(pairs))


def test_a_loaded_run_indexes_composes_and_searches(runs):
    model = diptych.load(runs / "sprc")
    source = open_source(f"{SCENES}:count=12:split=val")
    images = [sample.images["main"] for sample in source]
    index = model.index(images, batch_size=5)
    assert (index.shape, index.dtype) == ((12, 3, 12), torch.float16)
    assert torch.equal(index, model.index(images, batch_size=12))
    torch.testing.assert_close(index.float().norm(dim=-1), torch.ones(12, 3), atol=1e-3, rtol=1e-3)
    words = [sample.captions("instruction")[0] for sample in list(source)[1:6]]
    queries = model.compose(images[:1] * 5, words, batch_size=2)
    assert queries.shape == (5, 12)
    torch.testing.assert_close(queries[3], model.compose(images[0], words[3].upper() + "!")[0])
    one = model.search(index, images[0], words[0], k=4)
    scores = (index.float() @ queries[0]).amax(1)
    assert [place for place, _ in one] == scores.argsort(descending=True)[:4].tolist()
    assert [score for _, score in one] == pytest.approx(
        scores.sort(descending=True).values[:4].tolist()
    )
    assert len(model.search(index, images[0], words[0], k=99)) == 12
    with pytest.raises(InputError, match="ask for at least 1 image"):
        model.search(index, images[0], words[0], k=0)
    with pytest.raises(InputError, match="2 images and 1 instructions"):
        model.compose(images[:2], words[:1])
    with pytest.raises(InputError, match="1 of them empty"):
        model.compose(images[:1], "  . ")


def test_tiles_of_the_index_change_nothing(runs, monkeypatch):
    model = diptych.load(runs / "sprc")
    image = open_source(f"{SCENES}:count=1")[0].images["main"]
    index = normalize(
        torch.randn(11, 3, 12, generator=torch.Generator().manual_seed(0)), dim=-1
    ).half()
    whole = model.search(index, image, "make the circle red")
    monkeypatch.setattr("diptych.methods.adapt.sprc.composer.TILE", 3)
    tiled = model.search(index, image, "make the circle red")
    assert [row for row, _ in tiled] == [row for row, _ in whole]
    assert [score for _, score in tiled] == pytest.approx([score for _, score in whole], abs=1e-6)


def test_it_embeds_as_its_encoder_and_runs_in_bfloat16(runs):
    model, base = diptych.load(runs / "sprc"), diptych.load(runs / "base")
    texts = ["a red circle", "a star"]
    torch.testing.assert_close(model.embed_texts(texts), base.embed_texts(texts))
    assert model.identity != base.identity
    assert isinstance(model, Model)
    image = open_source(f"{SCENES}:count=1")[0].images["main"]
    half = diptych.load(runs / "sprc", precision="bfloat16")
    one, other = (each.compose(image, "make it red") for each in (model, half))
    assert cosine_similarity(one, other).item() > 0.99


def test_texts_are_cleaned_as_blip_2_does():
    assert cleaned("A red dog.\n(No; a 'BLUE' one!) #1") == "a red dog no a 'blue' one 1"


def test_evaluation_and_validation_measure_it_as_a_composer(runs, tmp_path):
    held_out = f"{SCENES}:count=36:split=val"
    results = diptych.evaluate(runs / "sprc", held_out, ["composed"], siblings="scene")["composed"]
    assert (results["n"], results["gallery"]) == (30, 36)
    assert results["chance_all_r1"] == pytest.approx(1 / 35)
    assert results["chance_subset_r1"] == pytest.approx(1 / 5)
    assert sum(row["n"] for row in results["by_edit"].values()) == 30
    config = resolve(
        "sprc",
        {"train": f"{SCENES}:count=24"},
        val=held_out,
        init=str(runs / "base"),
        config=SMALL,
        recipe={"steps": 1, "batch_size": 10},
        options={"quiet": True},
    )
    run(config, tmp_path / "run", validate=validation)
    reported = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    [seen] = [line for line in reported if line.get("event") == "validation"]
    assert "val/all_r1" in seen


class Pairs(SPRC):
    """The first stage, whose matching needs the pairs of all ranks."""

    test_options: ClassVar = {"task": "pairs", "depth": 2, "queries": 4}


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
def test_the_first_stage_keeps_the_contract(check):
    check(suite.Subject(Pairs))


def test_the_first_stage_trains_on_two_ranks_as_on_one(two):
    suite.two_ranks_train_as_one(suite.Subject(Pairs), two)
