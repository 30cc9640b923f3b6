"""Base and novel classes, groups and prompt ensembles of zero-shot classification, against
loops."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.helpers import Fake, Rows, row, vectors

from diptych.data.sample import Field
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.zeroshot import base_and_novel, group_accuracy, zeroshot

NAMES = [f"c{n}" for n in range(5)]


def source(labels, groups=None, names=NAMES) -> Rows:
    samples = [row(str(i), 10 + i, label=label) for i, label in enumerate(labels)]
    if groups is not None:
        samples = [
            replace(each, labels={**each.labels, "g": g})
            for each, g in zip(samples, groups, strict=True)
        ]
    return Rows(samples, names, {"labels.g": Field(kind="int", classes=("left", "right", "top"))})


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=10),
    tied=st.booleans(),
    seed=st.integers(0, 99),
)
def test_base_and_novel_equal_loops_over_their_own_classes(labels, tied, seed):
    labels = [*labels, 0, 4]  # both halves have images
    model = Fake(np.sign(vectors(seed, 30)) if tied else vectors(seed, 30))
    result = zeroshot(model, source(labels), templates=("{}",), novel="half")
    hits: dict[str, list[bool]] = {"base": [], "novel": []}
    for at, label in enumerate(labels):
        half = range(3) if label < 3 else range(3, 5)  # of five classes three are base
        scores = {c: float(model.vectors[10 + at] @ model.vectors[c]) for c in half}
        hits["base" if label < 3 else "novel"].append(
            all(scores[label] > score + 1e-6 for c, score in scores.items() if c != label)
        )
    base, novel = (float(np.mean(hits[name])) for name in ("base", "novel"))
    assert (result["base_top1"], result["novel_top1"]) == pytest.approx((base, novel))
    assert result["harmonic"] == pytest.approx(
        2 * base * novel / (base + novel) if base + novel else 0
    )
    assert (result["chance_base_top1"], result["chance_novel_top1"]) == (1 / 3, 1 / 2)
    assert result["chance_harmonic"] == pytest.approx(2 / 5)


class Learnt(Fake):
    """A classifier; where its classes look at each other, more than three of them turn its logits
    round."""

    def __init__(self, table: np.ndarray, independent: bool):
        super().__init__(table)
        self.name, self.classes, self.classifier = (
            "learnt",
            (),
            SimpleNamespace(independent=independent),
        )

    def set_classes(self, names):
        self.classes = tuple(names)

    def class_logits(self, images, *, batch_size):
        scores = self.embed_images(images, batch_size=batch_size) @ self.embed_texts(self.classes).T
        return scores if self.classifier.independent or len(self.classes) <= 3 else -scores


def test_classes_that_look_at_each_other_are_named_a_half_at_a_time():
    labels, table = [0, 1, 2, 3, 3, 4, 4, 1], vectors(3, 30)
    table[10:18] = table[labels]
    model = Learnt(table, independent=False)
    model.set_classes(("in", "training"))
    done: list[tuple[int, int]] = []
    found = zeroshot(model, source(labels), novel="half", progress=lambda *at: done.append(at))
    assert (found["base_top1"], found["novel_top1"]) == (1.0, 1.0)
    assert found["top1"] == 0.0  # among all five
    assert model.classes == ("in", "training")
    assert done[-1] == (24, 24)


def test_classes_that_do_not_are_named_once():
    labels, named = [0, 1, 2, 3, 4], []
    model = Learnt(vectors(3, 30), independent=True)
    model.set_classes = lambda names: (named.append(tuple(names)), Learnt.set_classes(model, names))
    zeroshot(model, source(labels), novel="half")
    assert named == [tuple(NAMES)]


def test_novel_classes_may_be_named_and_need_a_rest():
    model = Fake(vectors(0))
    named = zeroshot(model, source([0, 1, 4]), novel=["c3", "c4"])
    assert named["protocol"] == zeroshot(model, source([0, 1, 4]), novel="half")["protocol"]
    assert named["protocol"] != zeroshot(model, source([0, 1, 4]))["protocol"]
    for novel, message in (
        (["c9"], "novel class 'c9'"),
        (NAMES, "5 of 5 classes are novel"),
        ([], "0 of 5 classes"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(model, source([0, 1, 4]), ["zeroshot"], novel=novel)
    with pytest.raises(InputError, match="no image is of a novel class"):
        base_and_novel(np.eye(2), np.eye(2), np.array([0, 0]), np.array([False, True]))


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 2)), min_size=1, max_size=10),
    seed=st.integers(0, 99),
)
def test_groups_equal_loops_and_the_worst_is_the_least(rows, seed):
    labels, groups = map(list, zip(*[*rows, (0, 0)], strict=True))
    model = Fake(vectors(seed, 30))
    result = zeroshot(model, source(labels, groups), templates=("{}",), group="g")
    found: dict[str, list[bool]] = {}
    for at, (label, group) in enumerate(zip(labels, groups, strict=True)):
        scores = [float(model.vectors[10 + at] @ model.vectors[c]) for c in range(5)]
        if group >= 0:
            found.setdefault(("left", "right", "top")[group], []).append(
                sum(scores[label] <= s + 1e-6 for s in scores) == 1
            )
    assert {name: values["top1"] for name, values in result["by_group"].items()} == pytest.approx(
        {name: np.mean(hits) for name, hits in found.items()}
    )
    assert {name: values["n"] for name, values in result["by_group"].items()} == {
        k: len(v) for k, v in found.items()
    }
    assert result["worst_group_top1"] == min(
        values["top1"] for values in result["by_group"].values()
    )
    assert result["by_group"][result["worst_group"]]["top1"] == result["worst_group_top1"]


def test_groups_without_names_have_numbers_and_a_missing_label_is_told():
    assert group_accuracy(np.array([1.0, 0.0]), np.array([3, 3]), ()) == {
        "3": {"top1": 0.5, "n": 2}
    }
    with pytest.raises(
        InputError, match="label of source 'rows' for groups 'gg'; did you mean 'g'"
    ):
        evaluate(Fake(vectors(0)), source([0]), ["zeroshot"], group="gg")
    with pytest.raises(InputError, match="no image has the label that says its group"):
        zeroshot(Fake(vectors(0)), source([0], [-1]), group="g")


def test_an_ensemble_of_prompts_is_another_protocol_and_lies_between_its_members():
    """The image lies between what the two prompts of its class say; the other class has one of them
    nearer."""
    table = np.zeros((20, 3))
    table[[0, 10, 1, 11, 12]] = [
        [1, 0, 0],
        [0, 1, 0],
        [1, 0.4, 0],
        [0, 0, 1],
        [1, 1, 0],
    ]  # c0, 1c0, c1, 1c1, image
    image = Rows([row("a", 12, label=0)], ("c0", "c1"))
    one, both = (zeroshot(Fake(table), image, templates=each) for each in (("{}",), ("{}", "1{}")))
    assert (one["top1"], both["top1"]) == (0.0, 1.0)
    assert one["protocol"] != both["protocol"]


def test_a_model_that_maps_everything_to_one_point_names_no_class():
    point = np.tile(np.random.default_rng(0).normal(size=(1, 6)), (30, 1))
    result = zeroshot(
        Fake(point), source([0, 1, 2, 3, 4], [0, 1, 2, 0, 1]), novel="half", group="g"
    )
    assert result["top1"] == result["harmonic"] == result["worst_group_top1"] == 0.0


def test_errors_of_zeroshot_come_before_another_suite_computes():
    model = Fake(vectors(0))
    with pytest.raises(InputError, match="did you mean 'class'"):
        evaluate(
            model, Rows([row("a", 1, "t 1", label=0)]), ["retrieval", "zeroshot"], label="clas"
        )
    assert not model.seen
