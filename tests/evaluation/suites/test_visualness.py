"""The suite visualness: the published number, what says which texts are visual, thresholds, and the
protocol."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind
from tests.evaluation.helpers import Dot, Fake, Rows, row, vectors

from diptych.data.sample import Field
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites._drawings import difference
from diptych.evaluation.suites._drawings import report as drawn_report
from diptych.evaluation.suites._words import attention_report, ratings
from diptych.evaluation.suites.visualness import labelled, report
from diptych.methods.store import load
from diptych.metrics import best_threshold
from diptych.models.word_attention import word_attention


def test_the_macro_f1_of_the_sheets_table():
    scores = np.concatenate([np.ones(450), np.zeros(67), np.ones(120), np.zeros(808)])
    visual = np.concatenate([np.ones(517), np.zeros(928)])
    found = report(scores, visual, 0.5)
    assert found["macro_f1"] == pytest.approx(0.862125, abs=1e-6)
    assert found["accuracy"] == pytest.approx((450 + 808) / 1445)
    assert found["macro_precision"] == pytest.approx((450 / 570 + 808 / 875) / 2)
    assert found["macro_recall"] == pytest.approx((450 / 517 + 808 / 928) / 2)
    assert found["chance_accuracy"] == pytest.approx(928 / 1445)
    assert set(report(scores, visual)) == {"auroc", "chance_auroc"}


class Nulled(Fake):
    """A model whose NULL image is the dot 9."""

    threshold = None
    null = torch.tensor([9, 0, 0], dtype=torch.uint8).view(3, 1, 1)


def source(label="label"):
    visual = [True, False, True, False, True, False, False, True]
    samples = [
        replace(row(str(at), at, f"text {at}"), labels={label: int(yes)})
        for at, yes in enumerate(visual)
    ]
    samples = [
        one if yes else replace(one, images={}) for one, yes in zip(samples, visual, strict=True)
    ]
    return rows(samples, label), visual


def rows(samples, label="label"):
    return Rows(samples, fields={f"labels.{label}": Field(kind="int")})


def test_scores_are_told_by_the_models_null_image():
    data, visual = source()
    model = Nulled(vectors(0))
    scores = 1 - (model.vectors[:8] @ model.vectors[9]).numpy()
    found = evaluate(model, data, ["visualness"], train=data)["visualness"]
    best = best_threshold(scores, np.array(visual))
    assert found["threshold"] == pytest.approx(best)
    assert found["auroc"] == pytest.approx(report(scores, np.array(visual))["auroc"])
    assert found["macro_f1"] == pytest.approx(report(scores, np.array(visual), best)["macro_f1"])
    assert (found["n"], found["visual"]) == (8, 4)
    model.threshold = float(np.median(scores))
    own = evaluate(model, data, ["visualness"])["visualness"]
    assert own["threshold"] == model.threshold
    assert own["protocol"] != found["protocol"]


def test_without_a_threshold_only_what_needs_none_is_told():
    data, _ = source()
    model = Fake(vectors(0, count=256))  # which has no NULL image of its own
    found = evaluate(model, data, ["visualness"])["visualness"]
    assert "auroc" in found
    assert not {"macro_f1", "threshold", "accuracy"} & set(found)


def test_visual_is_what_a_label_calls_so_or_what_has_a_image():
    data, visual = source()
    assert labelled(data)[1].tolist() == visual
    for label, named in (("visual", None), ("kind", "kind")):
        renamed, _ = source(label)
        assert labelled(renamed, label=named)[1].tolist() == visual
    bare, _ = source("other")
    assert labelled(bare)[1].tolist() == visual  # by the images
    unsure = rows(
        [replace(each, labels={"label": -1}) if each.key == "3" else each for each in data.samples]
    )
    found = evaluate(Nulled(vectors(0)), unsure, ["visualness"])["visualness"]
    assert (found["n"], found["bad"]) == (7, {"no-label": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "labl"}, "did you mean 'label'"),
        ({"role": "web"}, "unknown role"),
        ({"train": Rows([]), "label": "label"}, "unknown label"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_computed(settings, message):
    data, _ = source()
    model = Nulled(vectors(0))
    with pytest.raises(InputError, match=message):
        evaluate(model, data, ["visualness"], **settings)
    assert not model.seen


def test_texts_of_one_kind_are_refused():
    data, _ = source()
    with pytest.raises(InputError, match="4 of 4 texts are visual"):
        evaluate(
            Nulled(vectors(0)),
            rows([each for each in data.samples if each.labels["label"]]),
            ["visualness"],
        )


LEXICON = "word,mean\ntext,3.5\na,1.5\nDOG,4.9\nis,1.6\nonce,2.5\nred,4.2\n"


def worded():
    """Texts of both kinds, in which "once" occurs once."""
    texts = ("a red dog", "a dog is red", "why is a text a text", "text is once")
    return rows(
        [replace(row(str(at), at, text), labels={"label": at % 2}) for at, text in enumerate(texts)]
    )


def test_attention_is_correlated_with_the_ratings_of_words_that_recur(tmp_path):
    path = tmp_path / "words.csv"
    path.write_text(LEXICON)
    model = load("tiny")
    data = worded()
    found = evaluate(model, data, ["visualness"], lexicon=str(path))["visualness"]
    shares = {}
    for words in word_attention(model, labelled(data)[0]):
        for word, share in words:
            shares.setdefault(word, []).append(share)
    known = {"text": 3.5, "a": 1.5, "dog": 4.9, "is": 1.6, "red": 4.2}
    x = np.array([sum(shares[word]) / len(shares[word]) for word in known])
    y = np.array(list(known.values()))
    x, y = x - x.mean(), y - y.mean()
    r = (x * y).sum() / ((x**2).sum() * (y**2).sum()) ** 0.5
    assert found["attention_pearson"] == pytest.approx(r)
    assert found["attention_words"] == 5
    assert found["attention_pearson_low"] < r < found["attention_pearson_high"]
    assert "lexicon=words.csv" in found["options"]
    plain = evaluate(model, data, ["visualness"])["visualness"]
    assert "attention_pearson" not in plain
    assert plain["protocol"] != found["protocol"]


def test_the_pack_of_concreteness_is_a_lexicon(data_pack):
    found = ratings(str(data_pack("concreteness") / "words.jsonl"))
    assert len(found) > 39_000
    assert found["dog"] > 4.5 > 2 > found["truth"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("noun,mean\ndog,1\n", "needs a column word and one of mean, rating"),
        ("word,mean\ndog,1\ncat,high\n", "row 2 has no word or no number as mean"),
        ("word,mean\ndog,1\ncat\n", "row 2 cannot be read"),
        (None, "there is no such file"),
    ],
)
def test_a_lexicon_that_cannot_be_read_is_refused_before_anything(lines, message, tmp_path):
    path = tmp_path / "words.csv"
    if lines:
        path.write_text(lines)
    with pytest.raises(InputError, match=message):
        evaluate(load("tiny"), worded(), ["visualness"], lexicon=str(path))


def test_models_that_do_not_attend_and_too_few_words_are_refused(tmp_path):
    path = tmp_path / "words.csv"
    path.write_text(LEXICON)
    data, _ = source()
    model = Nulled(vectors(0))
    with pytest.raises(InputError, match="has no text tower whose attention can be read"):
        evaluate(model, data, ["visualness"], lexicon=str(path))
    assert not model.seen
    with pytest.raises(InputError, match="1 words of the texts occur more than once and are rated"):
        attention_report([[("dog", 1.0)], [("dog", 0.5), ("hm", 0.5)]], {"dog": 4.9, "hm": 1.0})


class Drawer:
    """Draws a text of number n as the dots n and n + 1, or as dots that have nothing to do with it."""

    identity = "drawer"

    def __init__(self, visual):
        self.visual = visual
        self.seeds = []

    def draw(self, name, count, *, seed):
        number = int(name.split()[-1])
        self.seeds.append(seed)
        shown = (
            range(number, number + count)
            if self.visual[number]
            else range(20 + number, 20 + number + count)
        )
        return [Dot(at).decode() for at in shown]


class Judge(Nulled):
    """Which takes images, as a real model does."""

    def embed_images(self, images, *, batch_size):
        if isinstance(images, list):
            images = torch.stack(
                [torch.from_numpy(np.array(each)).permute(2, 0, 1) for each in images]
            )
        return super().embed_images(images, batch_size=batch_size)


def test_drawings_are_compared_with_their_texts_as_by_loops():
    data, visual = source()
    model = Judge(vectors(0, count=64))
    drawer = Drawer(visual)
    found = evaluate(model, data, ["visualness"], drawer=drawer, draws=2, seed=5)["visualness"]
    assert drawer.seeds == list(range(5, 13))
    x = model.vectors.double().numpy()
    dots = {n: [n, n + 1] if visual[n] else [20 + n, 21 + n] for n in range(8)}
    likeness, lift, alike = [], [], []
    for n in range(8):
        own = sum(float(x[n] @ x[dot]) for dot in dots[n]) / 2
        others = [m for m in range(8) if m != n and visual[m] == visual[n]]
        rest = sum(float(x[n] @ x[dot]) for m in others for dot in dots[m]) / 2 / len(others)
        likeness.append(own)
        lift.append(own - rest)
        alike.append(float(x[dots[n][0]] @ x[dots[n][1]]))
    for name, values in (("likeness", likeness), ("lift", lift), ("alike", alike)):
        a = [value for value, kind in zip(values, visual, strict=True) if kind]
        b = [value for value, kind in zip(values, visual, strict=True) if not kind]
        interval = ttest_ind(a, b, equal_var=False).confidence_interval()
        reported = found["by_drawing"][name]
        assert reported["visual"] == pytest.approx(np.mean(a))
        assert reported["other"] == pytest.approx(np.mean(b))
        assert reported["gap"] == pytest.approx(np.mean(a) - np.mean(b))
        assert (reported["low"], reported["high"]) == pytest.approx((interval.low, interval.high))
    assert "drawer=drawer" in found["options"]
    assert "by_drawing" not in evaluate(model, data, ["visualness"])["visualness"]


def test_what_drawings_do_not_tell_is_left_out():
    x = torch.eye(3)
    found = drawn_report(x[:, None], x, np.array([1, 0, 0]))
    assert set(found) == {"likeness"}  # one drawing of a text, and one text of a kind
    assert np.isnan(found["likeness"]["low"])
    same = difference(np.ones(3), np.zeros(2))
    assert (same["low"], same["gap"], same["high"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drawer": Fake(vectors(0))}, "the drawer of visualness needs a model with draw"),
        ({"drawer": Drawer([]), "draws": 0}, "0 drawings of a text are none"),
    ],
)
def test_models_that_draw_nothing_are_refused(settings, message):
    data, _ = source()
    model = Nulled(vectors(0))
    with pytest.raises(InputError, match=message):
        evaluate(model, data, ["visualness"], **settings)
    assert not model.seen
