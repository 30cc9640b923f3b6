"""Base and novel classes, groups and prompt ensembles of zero-shot classification, against
loops."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.helpers import Fake, Rows, row, vectors

from diptych.data.sample import Field
from diptych.data.sources import Concat
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites._labels import base_and_novel, group_accuracy, worst
from diptych.evaluation.suites.zeroshot import zeroshot

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


def prompted(tmp_path, table, sentences, **settings):
    """Measure dots 1 to 4 of classes c0 to c2 with a file of sentences."""
    path = tmp_path / "sentences.json"
    path.write_text(json.dumps(sentences))
    rows = [row(str(at), 10 + at, label=at % 3) for at in range(1, 5)]
    return zeroshot(Fake(table), Rows(rows), prompts=str(path), **settings)


def test_sentences_of_a_file_take_the_place_of_templates(tmp_path):
    """A class is the mean direction of its sentences, whatever their order and if all are doubled."""
    table = vectors(7, 30)
    table[11:15] = table[[1, 2, 0, 1]]
    one = prompted(tmp_path, table, {"c0": ["0"], "c1": ["1"], "C2": ["2"]})
    assert one["top1"] == 1.0
    sentences = {"c0": ["0", "20", "22"], "c1": ["1", "21"], "c2": ["2", "23"]}
    found = prompted(tmp_path, table, sentences)
    turned = {name: own[::-1] for name, own in sentences.items()}
    assert prompted(tmp_path, table, turned)["top1"] == found["top1"]
    model = Fake(table)
    means = np.stack([model.embed_texts(own).mean(0) for own in sentences.values()])
    images = model.vectors[11:15].numpy()
    expected = (images @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(1)
    assert found["top1"] == (expected == np.array([1, 2, 0, 1])).mean()
    assert found["protocol"] != one["protocol"]
    with pytest.raises(InputError, match="there is no class 'c1'"):
        prompted(tmp_path, table, {"c0": ["0"]})


def test_classnorm_standardises_each_coordinate_over_the_classes(tmp_path):
    table = vectors(5, 30)
    model = Fake(table)
    classes = model.vectors[:3].numpy()
    standard = (classes - classes.mean(0)) / classes.std(0)
    images = model.vectors[11:15].numpy()
    scores = images @ (standard / np.linalg.norm(standard, axis=1, keepdims=True)).T
    assert (scores.argmax(1) != (images @ classes.T).argmax(1)).any()
    sentences = {"c0": ["0"], "c1": ["1"], "c2": ["2"]}
    found = prompted(tmp_path, table, sentences, classnorm=True)
    assert found["top1"] == (scores.argmax(1) == np.array([1, 2, 0, 1])).mean()
    assert found["protocol"] != prompted(tmp_path, table, sentences)["protocol"]


def test_sources_count_alike_whatever_their_size_and_have_their_own_classes():
    table = vectors(3, 30)
    table[[10, 11, 12]] = table[0]
    table[13] = table[1]
    large = Rows([row(f"a{at}", 10 + at, label=0) for at in range(3)], ("c0", "c1"))
    small = Rows([row("b", 13, label=2)], ("c0", "c1", "c2"))
    small.name = "small"
    found = zeroshot(Fake(table), Concat([large, small]), templates=("{}",), by_source=True)
    assert found["by_source"]["rows"]["top1"] == 1.0
    assert found["by_source"]["small"]["top1"] == 0.0
    assert found["top1"] == 0.5
    assert found["chance_top1"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert (found["n"], found["bad"]) == (4, {})
    alone = zeroshot(Fake(table), large, templates=("{}",), by_source=True)
    assert alone["top1"] == 1.0
    assert alone["protocol"] != found["protocol"]


def test_a_mean_over_data_sets_is_none_over_modalities():
    """BiomedCLIP's accuracies by modality have the mean 48.43; its published 49.02 is that of 21 data
    sets."""
    hits = {"x-ray": 55.43, "fundus": 22.87, "ct": 43.99, "mri": 64.59, "us": 49.2, "path": 54.5}
    found = worst({name: {"top1": value, "n": 1} for name, value in hits.items()})
    assert found["macro_group_top1"] == pytest.approx(48.43, abs=0.005)
    assert found["worst_group"] == "fundus"


def test_what_does_not_go_together_is_refused():
    model = Fake(vectors(0))
    with pytest.raises(InputError, match="by_source measures whole sources; leave out group"):
        evaluate(model, source([0], [0]), ["zeroshot"], by_source=True, group="g")
    with pytest.raises(InputError, match="leave classnorm out"):
        evaluate(Learnt(vectors(3, 30), True), source([0]), ["zeroshot"], classnorm=True)


def test_two_classes_have_an_area_under_the_curve():
    labels = [0, 1, 1, 0, 1, 0]
    model = Fake(vectors(3, 30))
    found = zeroshot(model, source(labels, names=NAMES[:2]), templates=("{}",), auroc=True)
    axis = model.vectors[1] - model.vectors[0]
    scores = [float(model.vectors[10 + at] @ axis) for at in range(len(labels))]
    pairs = [
        scores[a] > scores[b]
        for a, one in enumerate(labels)
        for b, two in enumerate(labels)
        if one > two
    ]
    assert found["auroc"] == pytest.approx(np.mean(pairs))
    with pytest.raises(InputError, match="has 5 classes; auroc is of two"):
        zeroshot(model, source([0, 1]), templates=("{}",), auroc=True)


def prompts_of_two(path, sentences):
    path.write_text(
        json.dumps({name: list(own) for name, own in zip(NAMES, sentences, strict=True)})
    )
    return str(path)


def test_the_nearest_prompt_of_a_class_equals_loops(tmp_path):
    model = Fake(vectors(3, 30))
    labels = [0, 1, 2, 3, 4, 2, 1]
    sentences = [("1", "2"), ("3",), ("4", "5", "6"), ("7",), ("8", "9")]
    prompts = prompts_of_two(tmp_path / "p.json", sentences)
    found = zeroshot(model, source(labels), prompts=prompts, combine="max")
    hits = []
    for at, label in enumerate(labels):
        scores = [
            max(float(model.vectors[10 + at] @ model.vectors[int(text)]) for text in own)
            for own in sentences
        ]
        hits.append(all(scores[label] > s for c, s in enumerate(scores) if c != label))
    assert found["top1"] == pytest.approx(np.mean(hits))
    mean = zeroshot(model, source(labels), prompts=prompts)
    assert mean["protocol"] != found["protocol"]


@pytest.mark.parametrize("combine", ["mean", "max"])
def test_likelihoods_of_prompts_equal_loops(tmp_path, combine):
    model = Fake(vectors(3, 30))
    labels = [0, 1, 2, 3, 4, 2, 1]
    sentences = [("1", "2"), ("3",), ("4", "5", "6"), ("7",), ("8", "9")]
    prompts = prompts_of_two(tmp_path / "p.json", sentences)
    found = zeroshot(model, source(labels), prompts=prompts, combine=combine, by="log_prob")
    hits = []
    for at, label in enumerate(labels):
        scores = []
        for own in sentences:
            cosines = [float(model.vectors[10 + at] @ model.vectors[int(text)]) for text in own]
            chances = [np.exp(10 * cosine - 50) for cosine in cosines]
            scores.append(max(chances) if combine == "max" else np.mean(chances))
        hits.append(all(scores[label] > s for c, s in enumerate(scores) if c != label))
    assert found["top1"] == pytest.approx(np.mean(hits))
    by_vectors = zeroshot(model, source(labels), prompts=prompts, combine=combine)
    assert found["protocol"] != by_vectors["protocol"]
    half = zeroshot(model, source(labels), prompts=prompts, by="log_prob", novel="half")
    assert 0 <= half["harmonic"] <= 1


def test_max_and_mean_agree_where_the_prompts_of_a_class_are_identical(tmp_path):
    model = Fake(vectors(4, 30))
    prompts = prompts_of_two(tmp_path / "p.json", [(str(n), f"{n} ", f" {n}") for n in range(1, 6)])
    one, other = (
        zeroshot(model, source([0, 1, 2, 3, 4]), prompts=prompts, combine=how, draws=5)
        for how in ("mean", "max")
    )
    for name in ("top1", "mean_per_class", "drawn_top1"):
        assert one[name] == other[name]
    assert one["drawn_top1"] == one["top1"]
    assert one["drawn_top1_std"] == 0


def test_random_choices_of_prompts_have_the_mean_over_all_of_them(tmp_path):
    """Two classes of two prompts each: four choices."""
    model = Fake(vectors(5, 30))
    labels = [0, 1, 0, 1, 1, 0]
    two = source(labels, names=NAMES[:2])
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"c0": ["1", "2"], "c1": ["3", "4"]}))
    every = []
    for first in (1, 2):
        for second in (3, 4):
            scores = np.stack(
                [model.vectors[10 : 10 + 6] @ model.vectors[n] for n in (first, second)]
            )
            every.append(np.mean(scores.argmax(0) == np.array(labels)))
    found = zeroshot(model, two, prompts=str(path), draws=400)
    assert found["drawn_top1"] == pytest.approx(np.mean(every), abs=0.03)
    assert found["drawn_top1_std"] == pytest.approx(np.std(every), abs=0.03)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"combine": "median"}, "way to combine prompts"),
        ({"combine": "max", "classnorm": True}, "mean directions"),
        ({"draws": -1}, "draws is -1"),
        ({"by": "log_prob", "classnorm": True}, "no class embeddings"),
        ({"by": "match"}, "unknown way to score classes"),
        ({"draws": 3, "by_source": True}, "leave out group, novel, draws and auroc"),
    ],
)
def test_ways_to_combine_that_do_not_fit_are_refused(settings, match):
    with pytest.raises(InputError, match=match):
        zeroshot(Fake(vectors(0)), source([0, 1]), **settings)
