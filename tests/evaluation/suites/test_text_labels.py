"""Labels of texts: average precision against scikit-learn, with ties, buckets of frequency, and how
labels are found and scored."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from tests.evaluation.helpers import Words

from diptych.data.sample import Field
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.text_labels import buckets, report, rounded
from diptych.metrics import average_precision


class Named(Words):
    """Texts whose label `topic` has class names."""

    def schema(self):
        names = ("sea", "wine", "stone")
        return {**super().schema(), "labels.topic": Field(kind="int", classes=names)}


class Reader:
    """A text and a label are as alike as the letters that they share."""

    identity = "reader"

    def embed_texts(self, texts):
        rows = [[text.lower().count(chr(97 + at)) for at in range(26)] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(rows).float(), dim=1)


class Matcher(Reader):
    """Also scores labels: the number of times that a text holds them."""

    label_names = ()
    probabilities = "sigmoid"

    def match(self, texts, labels, *, batch_size):
        assert len(texts) <= batch_size
        return torch.tensor([[float(text.count(label)) for label in labels] for text in texts])


ROWS = [
    {"caption": "the sea and the sea", "label": ["sea", "Water"], "topic": 0},
    {"caption": "wine", "label": ["wine"], "topic": 1},
    {"caption": "stone of the sea", "label": ["stone", "sea"], "topic": 2},
    {"caption": "a red wine", "label": "wine", "topic": 1},
    {"caption": "nothing at all"},
]


def run(model=None, rows=ROWS, **settings):
    source = Named(rows)
    return evaluate(model or Matcher(), source, ["text_labels"], **settings)["text_labels"]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 6), st.integers(0, 10**6))
def test_average_precision_is_scikit_learns_also_with_ties(count, labels, levels, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (count, labels)) / 7
    relevant = rng.integers(0, 2, (count, labels)).astype(bool)
    found = average_precision(scores, relevant)
    for column in range(labels):
        if relevant[:, column].any():
            wanted = average_precision_score(relevant[:, column], scores[:, column])
            assert found[column] == pytest.approx(wanted, abs=1e-12)
        else:
            assert np.isnan(found[column])
    order = rng.permutation(count)
    assert np.array_equal(found, average_precision(scores[order], relevant[order]), equal_nan=True)


def test_equal_scores_give_the_prevalence_and_rounding_breaks_no_tie():
    relevant = np.array([[1], [0], [0], [1], [0]], bool)
    assert average_precision(np.zeros((5, 1)), relevant)[0] == pytest.approx(0.4)
    noisy = 0.3 + np.array([[2.0], [1], [0], [-1], [-2]]) * 1e-9
    assert report(noisy, relevant)["average_precision"] == pytest.approx(0.4)
    assert len(np.unique(rounded(np.array([[0.5], [0.5 + 1e-5]])))) == 2


def test_the_mean_is_over_labels_with_texts():
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.3, 0.4], [0.2, 0.2, 0.1]])
    relevant = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]], bool)
    found = report(scores, relevant)
    assert found["labels"] == 2
    assert found["average_precision"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert found["chance_average_precision"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert found["top1"] == pytest.approx(1 / 3)  # the third text has a tie


def test_top1_needs_one_label_of_each_text_and_loses_ties():
    one = np.array([[1, 0], [0, 1], [1, 0]], bool)
    scores = np.array([[2.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    found = report(scores, one)
    assert found["top1"] == pytest.approx(1 / 3)
    assert found["chance_top1"] == 0.5
    assert "top1" not in report(scores, np.array([[1, 1], [0, 1], [1, 0]], bool))
    assert "top1" not in report(scores, np.array([[0, 0], [0, 1], [1, 0]], bool))


def test_buckets_are_quartiles_of_the_frequencies():
    assert buckets(np.array([8, 7, 6, 5, 4, 3, 2, 1])).tolist() == [
        "head", "head", "middle", "middle", "middle", "middle", "tail", "tail",
    ]  # fmt: skip
    assert buckets(np.array([3, 3, 3, 0])).tolist() == ["middle"] * 3 + ["unseen"]
    assert buckets(np.array([1, 1, 1, 1, 9])).tolist() == ["middle"] * 5
    assert buckets(np.array([1, 1, 1, 9, 9])).tolist() == ["tail"] * 3 + ["head"] * 2
    # a label without texts moves no border
    present = np.array([True, True, True, False])
    assert buckets(np.array([1, 2, 3, 1000]), present).tolist()[:3] == ["tail", "middle", "head"]


def test_labels_are_texts_of_role_label_any_number_for_each_sample():
    found = run()
    assert found["n"] == 4
    assert found["bad"] == {"no-label": 1}
    assert found["labels"] == 4
    # sea .., stone and wine are found by the matcher; water is in no text, where all scores are equal
    assert found["average_precision"] == pytest.approx((3 + 1 / 4) / 4)
    assert found["chance_average_precision"] == pytest.approx((2 + 1 + 2 + 1) / 16)
    assert found["field"] == "texts.label"
    assert "top1" not in found
    assert "by_label" not in found


def test_a_label_with_class_names_is_one_for_each_text():
    found = run(label="topic")
    assert found["field"] == "labels.topic"
    assert found["top1"] == 0.75  # sea and stone are each once in the third text
    assert found["average_precision"] == pytest.approx(1)
    assert run(label="labels.topic") == found


def test_names_are_some_of_the_labels_and_listed():
    found = run(names=["WATER", "wine"])
    assert found["by_label"] == {
        "WATER": {"n": 1, "average_precision": 0.25, "chance": 0.25},
        "wine": {"n": 2, "average_precision": 1.0, "chance": 0.5},
    }
    assert found["protocol"] != run()["protocol"]
    with pytest.raises(InputError, match=r"unknown label in texts\.label of 'words' 'wien'"):
        run(names=["wien"])


def test_frequencies_are_those_of_the_training_data():
    train = Named([{"caption": "x", "label": ["sea"]}] * 3 + [{"caption": "x", "label": "Stone"}])
    found = run(train=train)
    assert {name: row["labels"] for name, row in found["by_frequency"].items()} == {
        "head": 1, "tail": 1, "unseen": 2,
    }  # fmt: skip
    assert found["by_frequency"]["head"]["max_count"] == 3
    assert found["unseen_average_precision"] == pytest.approx((1 / 4 + 1) / 2)  # water, wine
    assert any(option.startswith("train=words 4:") for option in found["options"])


def test_other_models_compare_with_the_name_in_templates():
    plain = run(Reader())
    assert plain["options"][0] == "by=embed"
    assert plain["prompts"] == ["{}"]
    model = Reader()
    texts = [row["caption"] for row in ROWS[:4]]
    names = ["sea", "stone", "Water", "wine"]
    cosines = model.embed_texts(texts) @ model.embed_texts(names).T
    relevant = np.array([[1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 1]], bool)
    assert plain["average_precision"] == report(cosines.numpy(), relevant)["average_precision"]
    two = run(Reader(), templates=["{}", "about {}"])
    assert two["protocol"] != plain["protocol"]
    assert run(Matcher(), by="embed")["average_precision"] == plain["average_precision"]


def test_batches_change_nothing():
    assert run(batch_size=1) == run(batch_size=64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "colour"}, "unknown label with words of source 'words' 'colour'"),
        ({"role": "label"}, "are both the texts and their labels"),
        ({"by": "mach"}, "unknown way to score 'mach'; did you mean 'match'"),
        ({"templates": ["a {}"]}, "matched by their words; leave templates out"),
        ({"model": Reader(), "by": "match"}, "whose match reads texts and labels"),
        ({"model": object()}, "text_labels needs a model with embed_texts"),
        ({"model": Reader(), "templates": ["a"]}, "must hold {} once"),
        ({"label": "caption", "role": "caption"}, "are both the texts and their labels"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        run(**settings)


def test_data_without_labels_is_refused():
    source = Words([{"caption": "a", "score": 1}])
    with pytest.raises(
        InputError, match="gives neither texts of role label nor a label with class"
    ):
        evaluate(Matcher(), source, ["text_labels"])
