"""DebCSE: what is drawn for each sentence, from which teacher, and its way to a model."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.factories import TEXT, make_method

import diptych
from diptych.cli import main
from diptych.data.columns import WithColumns
from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sources import open_source
from diptych.data.surface import Numbered, surface_similarity
from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.methods.base import At
from diptych.methods.make import NO_TOWER
from diptych.methods.text.debcse.candidates import NEGATIVES, POSITIVES
from diptych.methods.text.debcse.weights import weighted_info_nce
from diptych.training.prepare import Run

WORLD = "sentences:pool=12:count=40:paraphrases=1"
SOURCE = open_source(WORLD)
TEXTS = [SOURCE[i].captions()[0] for i in range(40)]
TOKENIZER = build("bpe:vocab_size=512:context=48", TEXTS)


def method_of(**options):
    config = {
        "image": NO_TOWER,
        "text": f"{TEXT}:causal=false:pooling=mean:dropout=0.1",
        "embed_dim": 32,
        "words": TOKENIZER,
        "pool": 6,
        "neighbours": 3,
        **options,
    }
    return make_method("debcse", **config)


def prepared(method, epoch=0, seed=0):
    run = Run(method, {"train": SOURCE}, At(0, 0, epoch, seed, "pairs"), torch.device("cpu"))
    method.prepare(run)
    return run.columns["train"]


def batch_of(method, columns, count=8):
    stage = method.stages()[-1]
    source = method.samples(stage, "train", WithColumns(SOURCE, columns))
    loader = Loader(source, method.views(stage), InOrder(), count)
    return source, next(iter(loader.epoch(0)))


def vectors(method) -> np.ndarray:
    ids = [torch.tensor([row]) for row in TOKENIZER.encode(TEXTS)]
    with torch.no_grad():
        found = [
            method.teacher.module.embed_texts(row, torch.tensor([row.shape[1]])) for row in ids
        ]
    return torch.cat(found).double().numpy()


def test_candidates_equal_loops():
    method = method_of(changes=(), min_positive=0.0, max_negative=0.97)
    prepared(method)
    pool = method.pool
    x = vectors(method)
    numbered = Numbered().words(TEXTS)
    for i in (0, 7, 39):
        others = [j for j in range(40) if j != i]
        meaning = {j: (float(x[i] @ x[j]) + 1) / 2 for j in others}
        surface = {j: surface_similarity([numbered[i]], [numbered[j]])[0] for j in others}
        near = sorted(others, key=lambda j: -meaning[j])[:3]
        assert pool.positives.origins[i].tolist() == [-1, *near]
        far = sorted((j for j in others if meaning[j] <= 0.97), key=lambda j: -meaning[j])[:6]
        assert pool.negatives.origins[i].tolist() == far
        assert np.allclose(pool.negatives.meaning[i], [meaning[j] for j in far], atol=1e-6)
        assert np.allclose(pool.negatives.surface[i], [surface[j] for j in far])
        weights = [np.exp(meaning[j] / 0.05) / max(1 - surface[j], 0.1) for j in far]
        expected = np.array(weights) / sum(weights)
        assert np.allclose(pool.negatives.probability[i], expected, atol=1e-4)
        weights = [
            np.exp(20) / 1.0,
            *(np.exp(meaning[j] / 0.05) / max(surface[j], 0.1) for j in near),
        ]
        expected = np.array(weights) / sum(weights)
        assert np.allclose(pool.positives.probability[i], expected, atol=1e-4)


def test_samples_hold_what_was_drawn_and_its_embedding():
    method = method_of(negatives=2, candidates="paraphrase", clip=0.1, temperature=1.0)
    columns = prepared(method)
    source, _ = batch_of(method, columns)
    pool = method.pool
    kinds = set()
    for i in range(40):
        sample = source[i]
        place = int(columns[POSITIVES][i])
        expected = TEXTS[place] if place >= 0 else pool.own[i][-1 - place]
        assert sample.captions("positive") == [expected]
        assert sample.captions() == [TEXTS[i]]
        for k in range(2):
            row = int(columns[NEGATIVES][i, k])
            assert sample.captions(f"negative{k}") == [TEXTS[row] if row >= 0 else TEXTS[i]]
            assert row != i
        kinds.add(min(place, 0))
        ids, lengths = (torch.tensor([row]) for row in (TOKENIZER.encode([expected])[0], 0))
        with torch.no_grad():
            vector = method.teacher.module.embed_texts(ids, lengths + ids.shape[1])
        assert np.allclose(columns["of_positive"][i], vector[0].numpy(), atol=1e-5)
    assert len(kinds) > 3  # neighbours, itself, changed and given ones
    assert pool.own[3][-1] == SOURCE[3].captions("paraphrase")[0]


def test_each_epoch_draws_anew_and_each_seed_too():
    method = method_of(temperature=1.0)
    first = prepared(method)
    again = prepared(method)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    for other in (prepared(method, epoch=1), prepared(method, seed=1)):
        assert not np.array_equal(first[POSITIVES], other[POSITIVES])


def test_the_teacher_is_the_encoder_after_the_warm_up_or_that_of_each_epoch():
    for refresh in (False, True):
        method = method_of(refresh=refresh)
        before = prepared(method)["of_anchor"]
        with torch.no_grad():
            for parameter in method.model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        after = prepared(method, epoch=1)["of_anchor"]
        assert np.allclose(before, after) is not refresh
        assert not np.allclose(prepared(method)["of_anchor"], before)  # a new stage
        assert not any(p.requires_grad for p in method.teacher.parameters())


def test_another_model_may_teach():
    method = method_of(teacher="tiny", warm=0.0)
    columns = prepared(method)
    assert columns["of_anchor"].shape == (40, 192)
    _, batch = batch_of(method, columns)
    assert torch.isfinite(method.loss(method.encode(batch, at_pairs()), batch, at_pairs()).total)
    with pytest.raises(InputError, match="the teacher tiny-lm does not embed texts; name a model"):
        prepared(method_of(teacher="tiny-lm"))


def at_pairs() -> At:
    return At(0, 10, 0, 0, "pairs")


@pytest.mark.parametrize("weight", ["mask", "ipw"])
def test_the_weights_of_a_batch_equal_loops(weight):
    method = method_of(weight=weight, negatives=2, max_negative=0.97, temperature=1.0)
    columns = prepared(method)
    source, batch = batch_of(method, columns)
    weights, hard = method.weights(batch)
    samples = [source[i] for i in range(8)]
    numbered = Numbered()

    def said(role):
        return numbered.words([sample.captions(role)[0] for sample in samples])

    anchors = said("caption")
    positives = said("positive")
    a = columns["of_anchor"][:8].astype(np.float64)
    p = columns["of_positive"][:8].astype(np.float64)
    expected = np.zeros((8, 10))
    for i in range(8):
        for j in range(8):
            near = (a[i] @ p[j] + 1) / 2 > 0.97
            if i != j and not near and TEXTS[i] != TEXTS[j]:
                surface = surface_similarity([anchors[i]], [positives[j]])[0]
                expected[i, j] = 1 / max(1 - surface, 0.1) if weight == "ipw" else 1
        for k in range(2):
            if columns[NEGATIVES][i, k] >= 0:
                negative = numbered.words([samples[i].captions(f"negative{k}")[0]])
                surface = surface_similarity([anchors[i]], negative)[0]
                expected[i, 8 + k] = 1 / max(1 - surface, 0.1) if weight == "ipw" else 1
        if weight == "ipw" and expected[i].any():
            expected[i] /= expected[i][expected[i] > 0].mean()
    assert np.allclose(weights.numpy(), expected[:, :8] + np.eye(8), atol=1e-6)
    assert np.allclose(hard.numpy(), expected[:, 8:], atol=1e-6)
    views = method.encode(batch, at_pairs())
    losses = method.loss(views, batch, at_pairs())
    expected = weighted_info_nce(method.head(views["views"]), 20.0, weights, hard)
    assert losses.total.item() == pytest.approx(expected.item())
    others = weights[~torch.eye(8, dtype=torch.bool)]
    assert losses.logged["guarded"].item() == pytest.approx(float((others == 0).double().mean()))


def test_equal_sentences_are_no_negatives_of_each_other_but_without_the_guard():
    for guard in (True, False):
        method = method_of(guard=guard, max_negative=1.0, negatives=0)
        batch = SimpleNamespace(
            fields={
                "equal": torch.tensor([4, 5, 4]),
                "of_anchor": torch.eye(3),
                "of_positive": torch.eye(3),
            }
        )
        weights, _ = method.weights(batch)
        assert bool(weights[0, 2] == 0) is guard
        assert weights[0, 1] == 1


def test_the_warm_up_is_simcse():
    method = method_of(warm=2.0)
    assert [stage.name for stage in method.stages()] == ["warm", "pairs"]
    assert method.stages()[0].recipe == {"epochs": 2.0, "steps": None}
    stage = method.stages()[0]
    [view] = method.views(stage)
    assert view.role == "caption"
    assert method.samples(stage, "train", SOURCE) is SOURCE
    assert [stage.name for stage in method_of(warm=0.0).stages()] == ["pairs"]


SETTINGS = {
    "text_tower": f"{TEXT}:causal=false:pooling=mean:dropout=0.1",
    "embed_dim": 32,
    "tokenizer": "bpe:vocab_size=512:context=48",
    "batch_size": 16,
    "quiet": True,
}


def test_a_run_from_a_text_file_shows_its_candidates(tmp_path, capsys):
    lines = tmp_path / "sentences.txt"
    lines.write_text("\n".join(TEXTS), encoding="utf-8")
    config = {"inspect": 2, "pool": 5, "weight": "ipw"}
    run = tmp_path / "run"
    model = diptych.train("debcse", str(lines), run, epochs=2, config=config, **SETTINGS).model
    assert model.embed_texts(["the king"]).shape == (1, 32)
    assert set(model.encoder.state_dict()) == set(diptych.load(run).encoder.state_dict())
    for epoch in range(2):
        found = [
            json.loads(line) for line in (run / f"pairs-{epoch}.jsonl").read_text().splitlines()
        ]
        assert [row["sentence"] for row in found] == TEXTS[:2]
        sides = {each["side"] for each in found[0]["candidates"]}
        assert sides == {"positive", "negative"}
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("guarded" in line for line in logged)
    assert main(["info", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"].startswith("abstract")


def test_no_negative_is_beyond_the_guard():
    near = (vectors(method_of()) @ vectors(method_of()).T + 1) / 2
    limit = float(np.quantile(near, 0.4))
    method = method_of(max_negative=limit, pool=39, temperature=1.0)
    prepared(method)
    drawn = method.pool.drawn[:, 0]
    kept = drawn >= 0
    assert kept.sum() > 20
    assert (near[np.arange(40)[kept], drawn[kept]] <= limit + 1e-6).all()
    assert (method.pool.negatives.origins < 0).any()
    prepared(open_method := method_of(max_negative=limit, guard=False, pool=39, temperature=1.0))
    drawn = open_method.pool.drawn[:, 0]
    assert (near[np.arange(40), drawn] > limit).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"role": "caption=0.5,long=0.5"}, "is a mixture, and pairs are drawn of one sentence"),
        ({"teacher": "tiny", "refresh": True}, "does not change, so refresh has no meaning"),
        ({"negatives": 9, "pool": 3}, r"9 negatives cannot be drawn from a pool of 3"),
        ({"surface": {"jacard": 1.0}}, "did you mean 'jaccard'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        method_of(**options)


def test_a_table_of_synonyms_that_is_missing_is_told_before_the_first_step(tmp_path: Path):
    with pytest.raises(InputError, match="there is no table of synonyms"):
        diptych.train("debcse", WORLD, tmp_path, config={"synonyms": "none.json"}, **SETTINGS)


def test_encoding_differs_by_dropout_alone():
    method = method_of(warm=1.0)
    columns = prepared(method)
    _, batch = batch_of(method, columns)
    at = At(0, 10, 0, 0, "warm")
    views = method.encode(batch, at)["views"]
    assert views.shape[1] == 2
    assert not torch.allclose(views[:, 0], views[:, 1])
