"""Objectives with labels: the published figure, loops from the equations, what is a positive and what
no negative, and models that score labels of their words alone."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import AT, small_make

import diptych
from diptych.data.batch import Batch
from diptych.data.loader import Loader
from diptych.data.plan import Shuffled
from diptych.data.sample import BadSample, Field, Sample, Text
from diptych.data.tokenizers import build, pad_batch
from diptych.errors import InputError
from diptych.methods.make import NO_TOWER
from diptych.methods.text.nlp_primer import NLPPrimer
from diptych.methods.text.nlp_primer.catalogue import describe
from diptych.methods.text.nlp_primer.label_views import (
    LAST,
    LabelsView,
    content_words,
    name_of,
    number_of,
)
from diptych.methods.text.nlp_primer.labels import among, label_matching
from diptych.methods.text.nlp_primer.matching import Matcher, label_vectors

TOPICS = ("music", "sport", "harbour", "garden", "kitchen", "theatre", "railway", "school", "forest",
          "desert", "museum", "market")  # fmt: skip
HELD_OUT = ("desert", "market", "museum")
FILLERS = ("today", "people", "much", "often", "bright", "quiet")
TEXT = "text:width=32:depth=1:heads=2:causal=false:pooling=mean"


class Texts:
    """Texts with labels as texts of role `label` and as numbers of classes."""

    name = "texts"
    classes = ("red_wine", "sea", "stone")

    def __init__(self, rows: list[tuple[str, list[str], int]]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> Sample:
        text, labels, number = self.rows[at]
        texts = [Text(text=text), *(Text(text=label, role="label") for label in labels)]
        return Sample(key=str(at), source="texts", texts=texts, labels={"kind": number})

    def keys(self) -> list[str]:
        return [str(at) for at in range(len(self.rows))]

    def schema(self) -> dict[str, Field]:
        return {
            "texts.caption": Field(kind="text"),
            "texts.label": Field(kind="text", optional=True),
            "labels.kind": Field(kind="int", classes=self.classes),
            "labels.bare": Field(kind="int"),
        }


ROWS = Texts(
    [
        ("The sea, and a stone!", ["water"], 1),
        ("a red wine of the sea", ["drink", "Red Wine"], 0),
        ("stone on stone", ["mineral"], 2),
        ("some people drink", ["drink"], -1),
    ]
)


def words():
    texts = [text for text, *_ in ROWS.rows] + ["water drink mineral", *TOPICS, *FILLERS]
    return build("words:context=8", texts)


def primer(objective: str, source: Texts = ROWS):
    torch.manual_seed(0)
    make = small_make(NO_TOWER, TEXT, words=words())
    method = NLPPrimer.of(NLPPrimer.configure({"objective": objective}), make)
    method.setup({"train": source})
    return method.double().eval()


def batch_of(method, source: Texts = ROWS, seed: int = 0) -> Batch:
    views = method.views(method.stages()[0])
    loader = Loader(source, views, Shuffled(), len(source), seed=seed, steps=1)
    return next(iter(loader.epoch(0)))


def test_the_loss_of_matching_has_the_published_figure():
    logits = torch.tensor([[2.0, 1.0, -1.0, 0.0, -3.0]], dtype=torch.float64)
    targets = torch.tensor([[1, 1, 0, 0, 0]])
    assert float(label_matching(logits, targets)) == pytest.approx(0.299037184, abs=1e-9)
    # a label that is not there does not count, nor in the mean
    there = torch.tensor([[True, True, True, True, False]])
    four = [math.log1p(math.exp(x)) for x in (-2, -1, -1, 0)]
    assert float(label_matching(logits, targets, there)) == pytest.approx(sum(four) / 4)


def test_texts_weigh_the_same_however_many_labels_they_have():
    logits = torch.tensor([[2.0, 1.0], [-1.0, 9.0]], dtype=torch.float64)
    there = torch.tensor([[True, True], [True, False]])
    found = float(label_matching(logits, torch.ones(2, 2), there))
    one = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    assert found == pytest.approx((one + math.log1p(math.exp(1))) / 2)


def test_gradients_of_matcher_and_loss():
    torch.manual_seed(0)
    matcher = Matcher(3, 2, 4).double()
    texts = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.randn(2, 5, 2, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(2, (2, 5))
    there = torch.tensor([[True] * 5, [True, True, False, True, False]])

    def loss(texts, labels):
        return label_matching(matcher(texts, labels), targets, there)

    assert torch.autograd.gradcheck(loss, (texts, labels))
    whole = torch.nn.Linear(5, 4).double()  # U and V are the two halves of one layer
    whole.weight.data = torch.cat([matcher.text[1].weight, matcher.label[1].weight], 1).detach()
    whole.bias.data = matcher.text[1].bias.detach()
    both = [torch.nn.functional.layer_norm(x, x.shape[-1:]) for x in (texts[0], labels[0, 3])]
    hidden = torch.nn.functional.gelu(whole(torch.cat(both)))
    assert torch.allclose(matcher(texts, labels)[0, 3], matcher.score(hidden)[0])


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_among_is_membership(data):
    numbers = st.integers(0, 9)
    rows = [sorted(data.draw(st.sets(numbers, max_size=4))) for _ in range(3)]
    values = [data.draw(st.lists(numbers, min_size=5, max_size=5)) for _ in range(3)]
    filled = torch.tensor([[*row, *[LAST] * (4 - len(row))] for row in rows])
    wanted = [[value in row for value in each] for row, each in zip(rows, values, strict=True)]
    assert among(torch.tensor(values), filled).tolist() == wanted


def test_words_that_can_be_labels():
    assert content_words("To be, or not to be... The #Cat's 'cat' – the CAT; 3 (dogs)") == [
        "Cat's", "cat", "3", "dogs",
    ]  # fmt: skip
    assert content_words("of the") == []
    assert name_of(" Red_Wine ") == name_of("red wine")


def view(**options) -> LabelsView:
    given = {"fields": ("texts.label",), "labels": 2, "real": 2, "pseudo": 2} | options
    return LabelsView(tokenizer=words(), **given)


def test_positives_are_labels_and_other_words_of_the_text():
    tokenizer = words()
    found = view()(ROWS[1], np.random.default_rng(0), None)
    wanted = ["drink", "Red Wine", "red", "wine"]
    assert found["texts.labels"] == [tokenizer.ids(label) for label in wanted]
    assert found["fields.there"].tolist() == [True] * 4
    assert found["fields.names"].tolist() == [number_of(name_of(each)) for each in wanted]
    known = sorted(map(number_of, ["drink", "red wine", "red", "wine", "sea"]))
    assert found["fields.known"].tolist() == [*known, *[LAST] * (2 + tokenizer.room - 5)]
    # a label that is a word of the text is one positive, not two
    sea = Texts([("the sea", ["Sea"], 1)])
    found = view()(sea[0], np.random.default_rng(0), None)
    assert found["fields.there"].tolist() == [True, False, False, False]


def test_training_draws_labels_and_words_without_repeating_them():
    rng = np.random.default_rng(0)
    drawn = [
        view(pseudo=1, fields=())(ROWS[1], rng, 0.5)["fields.names"].tolist() for _ in range(60)
    ]
    assert {number for (number,) in drawn} == set(map(number_of, ["red", "wine", "sea"]))
    both = view(real=2, pseudo=2)(ROWS[1], rng, 0.5)["fields.names"].tolist()
    assert len(set(both)) == 4


def test_words_beyond_the_context_are_no_labels_and_a_text_without_any_is_damaged():
    long = Texts([("sea people today often much stone water bright red wine", [], -1)])
    one = view(fields=(), pseudo=20)
    found = one(long[0], np.random.default_rng(0), None)
    room = one.tokenizer.room
    assert int(found["fields.there"].sum()) == room < 10
    with pytest.raises(BadSample, match="no-label: 0 has no label and no word"):
        one(Texts([("of the", [], -1)])[0], np.random.default_rng(0), None)


def test_drawn_names_of_the_vocabulary_are_no_positives_of_the_text():
    counted = view().counted(ROWS)
    counts = dict(zip(map(name_of, counted.names), counted.counts, strict=True))
    assert counts["sea"] == counts["stone"] == counts["drink"] == 2
    assert counts["water"] == 1
    assert counted.labels == 2
    drawing = view(vocabulary=counted, negatives=200)
    rng = np.random.default_rng(0)
    found = drawing(ROWS[0], rng, 0.5)
    there = found["fields.there"].tolist()[4:]
    rows = found["texts.labels"][4:]
    own = {"sea", "stone", "water"}
    others = [
        counted.names[at]
        for at in range(len(counted.names))
        if counted.names[at].lower() not in own
    ]
    assert {tuple(row) for row, real in zip(rows, there, strict=True) if real} == {
        tuple(words().ids(name)) for name in others
    }
    left_out = sum(counts[name] for name in own) / sum(counts.values())
    assert 1 - np.mean(there) == pytest.approx(left_out, abs=0.1)


@pytest.mark.parametrize("objective", ["cless:negatives=6", "cless:negatives=6:fields=texts.label+labels.kind:pseudo=1",
                                       "cless:negatives=6:pool=vocabulary:fields=texts.label"])  # fmt: skip
def test_cless_is_the_mean_of_loops(objective):
    method = primer(objective)
    batch = batch_of(method)
    features = method.encode(batch, AT)
    torch.manual_seed(7)
    found = float(method.loss(features, batch, AT).terms["labels"].detach())
    tokens = batch.texts["labels"]
    there = batch.fields["there"]
    table = method.model.text.table.weight
    count = method.view.positives

    def vector(row: int, column: int):
        ids = tokens.ids[row, column, : int(tokens.lengths[row, column])]
        return sum(table[int(each)] for each in ids) / len(ids)

    def bce(row: int, label, y: int) -> float:
        logit = method.matcher(features["texts"][row : row + 1], label[None]).item()
        return math.log1p(math.exp(-logit if y else logit))

    torch.manual_seed(7)
    pool = [(i, j) for i in range(len(batch)) for j in range(count) if there[i, j]]
    picked = torch.randint(len(pool), (len(batch), 6)).tolist()
    total = 0.0
    collided = 0
    for i in range(len(batch)):
        losses = [bce(i, vector(i, j), 1) for j in range(count) if there[i, j]]
        if "known" in batch.fields:
            for number in picked[i]:
                owner, place = pool[number]
                if int(batch.fields["names"][owner, place]) in batch.fields["known"][i].tolist():
                    collided += 1
                    continue
                losses.append(bce(i, vector(owner, place), 0))
        else:
            losses += [bce(i, vector(i, j), 0) for j in range(count, there.shape[1]) if there[i, j]]
            collided += int((~there[i, count:]).sum())
        total += sum(losses) / len(losses)
    assert collided > 0
    assert found == pytest.approx(total / len(batch), rel=1e-12)


def test_without_other_words_there_are_no_negatives():
    same = Texts([("the sea", [], -1)] * 3)
    method = primer("cless", same)
    batch = batch_of(method, same)
    features = method.encode(batch, AT)
    loss = method.loss(features, batch, AT).total.item()
    label = features["labels"][:1, 0]
    logits = method.matcher(features["texts"], label)
    assert loss == pytest.approx(torch.nn.functional.softplus(-logits).mean().item())


def test_a_label_is_the_mean_of_its_tokens_embeddings():
    method = primer("cless")
    tokenizer = method.make.tokenizer
    table = method.model.text.table
    ids, lengths = pad_batch([tokenizer.ids("red wine"), tokenizer.ids("sea")], tokenizer)
    rows = [tokenizer.ids("red")[0], tokenizer.ids("wine")[0]]
    found = label_vectors(table, ids, lengths)
    assert torch.allclose(found[0], table.weight[rows].mean(0))
    assert torch.equal(found[1], table.weight[tokenizer.ids("sea")[0]])


def model_of(objective: str):
    method = primer(objective).float()
    return method.deliver().to_model(method.make.tokenizer, None, "run")


def test_the_score_of_an_unseen_label_depends_on_its_words_alone():
    model = model_of("cless")
    texts = ["the sea and stone", "a red wine"]
    alone = model.match(texts, ["garden school"])
    among_others = model.match(texts, ["sea", "garden school", "music"])
    assert torch.allclose(alone[:, 0], among_others[:, 1], atol=1e-6)
    assert torch.allclose(alone, model.match(texts, ["Garden_School"]), atol=1e-6)
    assert torch.allclose(
        alone, model.match(texts, ["school garden"]), atol=1e-6
    )  # a mean of words
    tokenizer = model.tokenizer
    with torch.no_grad():
        model.encoder.text.table.weight[tokenizer.ids("railway")[0]] += 1
    assert torch.equal(alone, model.match(texts, ["garden school"]))
    with torch.no_grad():
        model.encoder.text.table.weight[tokenizer.ids("garden")[0], ::2] += 1
    assert not torch.allclose(alone, model.match(texts, ["garden school"]), atol=1e-3)


def test_scores_do_not_depend_on_batches(monkeypatch):
    model = model_of("cless")
    texts = [" ".join(random.Random(at).sample(TOPICS, 1 + at % 4)) for at in range(9)]
    whole = model.match(texts, TOPICS)
    monkeypatch.setattr("diptych.methods.text.nlp_primer.matching.LABELS", 5)
    assert torch.allclose(whole, model.match(texts, TOPICS, batch_size=2), atol=1e-5)
    assert whole.shape == (9, len(TOPICS))
    assert model.match("sea", ["stone"]).shape == (1, 1)


def test_labels_without_words_are_refused():
    model = model_of("cless")
    with pytest.raises(InputError, match="the label '' has no word that run knows"):
        model.match(["sea"], ["stone", " "])
    with pytest.raises(InputError, match="no label is given"):
        model.match(["sea"], [])


@pytest.mark.parametrize("form", ["info", "binary"])
def test_texts_with_equal_labels_are_no_negatives_of_each_other(form):
    source = Texts([("sea", [], 1), ("red sea", [], 1), ("stone", [], 2), ("wine", [], 0)])
    method = primer(f"label_text:field=labels.kind:form={form}:tau=0.5", source)
    batch = batch_of(method, source)
    features = method.encode(batch, AT)
    if form == "binary":
        with torch.no_grad():
            method.bias.fill_(0.3)
    found = method.loss(features, batch, AT).total.item()
    labels = batch.fields["label"].tolist()
    s = (features["texts"] @ features["labels"].T / 0.5).tolist()
    count = len(labels)
    total = 0.0
    for i in range(count):
        others = [j for j in range(count) if labels[j] != labels[i]]
        assert len(others) < count - 1 or labels.count(labels[i]) == 1
        if form == "info":
            for own, row in (
                (s[i][i], [s[i][j] for j in others]),
                (s[i][i], [s[j][i] for j in others]),
            ):
                total += (math.log(math.exp(own) + sum(map(math.exp, row))) - own) / 2
        else:
            total += math.log1p(math.exp(-s[i][i] - 0.3))
            total += sum(math.log1p(math.exp(s[i][j] + 0.3)) for j in others)
    assert found == pytest.approx(total / count, rel=1e-12)


def test_descriptions_are_names_in_a_template_or_texts_of_a_role():
    method = primer("label_text:field=labels.kind:template=about {}")
    tokenizer = method.make.tokenizer
    (described,) = [each for each in method.views(method.stages()[0]) if each.name == "description"]
    rng = np.random.default_rng(0)
    [ids] = described(ROWS[1], rng, None)["texts.description"]
    assert ids == tokenizer.encode(["about red wine"])[0]
    with pytest.raises(BadSample, match=r"no-label: 3 has no labels\.kind"):
        described(ROWS[3], rng, None)
    method = primer("label_text:field=texts.label")
    described = method.views(method.stages()[0])[1]
    numbers = [described(ROWS[at], rng, None)["fields.label"] for at in (1, 3)]
    assert numbers[0] == numbers[1] == number_of("drink")


def test_supervised_tuning_is_cross_entropy_and_contrast_of_labels():
    source = Texts(
        [
            ("sea", [], 1),
            ("red sea", [], 1),
            ("stone", [], 2),
            ("stone wine", [], 2),
            ("wine", [], 0),
        ]
    )
    method = primer("supcon_tuning:label=kind:weight=0.4:tau=0.5", source)
    with torch.no_grad():
        method.classifier.weight.normal_()
        method.classifier.bias.normal_()
    batch = batch_of(method, source)
    features = method.encode(batch, AT)
    terms = method.loss(features, batch, AT).terms
    z = features["texts"].detach().numpy()
    y = batch.fields["label"].tolist()
    logits = (
        z @ method.classifier.weight.detach().numpy().T + method.classifier.bias.detach().numpy()
    )
    ce = np.mean(
        [math.log(sum(np.exp(row))) - row[label] for row, label in zip(logits, y, strict=True)]
    )
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    s = unit @ unit.T / 0.5
    anchors = []
    for i in range(len(y)):
        others = [j for j in range(len(y)) if j != i]
        positives = [j for j in others if y[j] == y[i]]
        if positives:
            normaliser = math.log(sum(math.exp(s[i, j]) for j in others))
            anchors.append(-sum(s[i, j] - normaliser for j in positives) / len(positives))
    assert len(anchors) == 4
    assert terms["classes"].item() == pytest.approx(0.6 * ce, rel=1e-12)
    assert terms["supcon"].item() == pytest.approx(0.4 * np.mean(anchors), rel=1e-12)


def test_a_classifier_scores_the_labels_of_its_training_alone():
    model = model_of("supcon_tuning:label=kind")
    assert model.label_names == Texts.classes
    with torch.no_grad():
        model.delivered.head.weight.normal_()
    scores = model.match(["sea", "stone"], ["stone", "Red Wine"])
    assert torch.equal(scores, model.match(["sea", "stone"], list(Texts.classes))[:, [2, 0]])
    with pytest.raises(InputError, match="unknown label of run 'seas'; did you mean 'sea'"):
        model.match(["sea"], ["stone", "seas"])


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("cless:pseudo=0", "cless has no labels: name fields"),
        ("cless:fields=label", "unknown field of labels 'label'"),
        ("cless:fields=labels.bare", r"labels\.bare of texts has no class names, and its words"),
        ("supcon_tuning:label=bare", r"labels\.bare of texts has no class names"),
        ("label_text:field=labels.a+labels.b", "label_text has one field"),
        ("label_text:template=about", "must hold {} once"),
        ("cless:pool=queue", "'pool'"),
    ],
)
def test_options_that_do_not_fit_are_refused(objective, message):
    with pytest.raises(InputError, match=message):
        primer(objective)


def test_their_places_in_the_taxonomy():
    rows = [describe(name) for name in ("cless:pseudo=2", "label_text", "supcon_tuning")]
    assert [row.contrast for row in rows] == ["input-label", "input-label", "input-input"]
    assert [row.supervision for row in rows] == ["unified", "supervised", "supervised"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Texts of two topics; three topics are no label in training."""
    folder = tmp_path_factory.mktemp("topics")
    rng = random.Random(0)
    for name, count, hidden in (("train", 400, HELD_OUT), ("test", 120, ())):
        rows = []
        for _ in range(count):
            topics = rng.sample(TOPICS, 2)
            text = " ".join(rng.sample([*topics, *rng.sample(FILLERS, 3)], 5))
            rows.append({"text": text, "labels": [each for each in topics if each not in hidden]})
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(data) -> Path:
    diptych.train(
        "nlp_primer",
        str(data / "train.jsonl"),
        data / "run",
        config={"objective": "cless:fields=texts.label:width=128"},
        text_tower=TEXT,
        tokenizer="words:context=16",
        embed_dim=32,
        batch_size=32,
        steps=150,
        lr=0.01,
        quiet=True,
        val=str(data / "test.jsonl"),
    )
    return data / "run"


def test_labels_that_training_never_saw_are_found_by_their_words(data, run):
    found = diptych.evaluate(
        diptych.load(run),
        str(data / "test.jsonl"),
        suites=["text_labels"],
        names=HELD_OUT,
        train=str(data / "train.jsonl"),
    )["text_labels"]
    assert set(found["by_frequency"]) == {"unseen"}
    assert found["unseen_average_precision"] > found["chance_unseen_average_precision"] + 0.35


def test_a_run_validates_by_its_labels_and_loads_with_its_matcher(data, run, tmp_path):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("val/average_precision" in line for line in lines)
    model = diptych.load(run)
    texts = ["people often music", "desert quiet"]
    scores = model.match(texts, TOPICS)
    model.save(tmp_path / "again")
    again = diptych.load(tmp_path / "again")
    assert torch.equal(again.match(texts, TOPICS), scores)
    assert again.embed_texts(texts).shape == (2, 32)
    assert again.identity == model.identity
    diptych.train(
        "nlp_primer",
        str(data / "train.jsonl"),
        tmp_path / "more",
        init=str(run),
        preset="small",
        config={"objective": "cless:fields=texts.label:width=128"},
        batch_size=8,
        steps=1,
        lr=1e-12,
        quiet=True,
    )
    more = diptych.load(tmp_path / "more")
    assert torch.allclose(more.match(texts, TOPICS), scores, atol=1e-4)  # the matcher goes on too


def test_a_tuned_classifier_is_loaded_with_its_names(tmp_path):
    rows = [
        {"text": f"{topic} {filler}", "label": topic} for topic in TOPICS[:4] for filler in FILLERS
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    diptych.train(
        "nlp_primer",
        str(tmp_path / "t.jsonl"),
        tmp_path / "run",
        config={"objective": "supcon_tuning"},
        text_tower=TEXT,
        tokenizer="words:context=16",
        embed_dim=32,
        batch_size=24,
        steps=40,
        lr=0.01,
        quiet=True,
    )
    model = diptych.load(tmp_path / "run")
    assert set(model.label_names) == set(TOPICS[:4])
    found = diptych.evaluate(model, str(tmp_path / "t.jsonl"), suites=["text_labels"])[
        "text_labels"
    ]
    assert found["top1"] == 1.0
    assert found["average_precision"] == 1.0
