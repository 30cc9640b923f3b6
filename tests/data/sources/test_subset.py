"""Parts of any source by classes and by shots; parts by place are tested in test_open_source.py."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diptych.data.sample import Field, Sample, Source
from diptych.data.sources import open_source
from diptych.data.sources.subset import narrowed, novel_half, of_classes, shots
from diptych.errors import InputError
from diptych.evaluation.suites._labels import novel_classes


class Labelled:
    """Samples with labels and nothing else; `names` are the classes of the label `class`."""

    name = "labelled"

    def __init__(self, labels, names=None, **others):
        self.values, self.names, self.others = np.array(labels), names, others
        self.read = 0

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        self.read += 1
        at = range(len(self))[index]
        sample = Sample(
            key=f"k{at}", source=self.name, labels={"class": int(self.values[at]), "place": at}
        )
        return replace(
            sample, edits=[replace(sample, labels={"class": (int(self.values[at]) + 1) % 4})]
        )

    def keys(self):
        return [f"k{at}" for at in range(len(self))]

    def labels(self, name):
        return self.values if name == "class" else np.arange(len(self))

    def schema(self):
        classes = tuple(f"c{number}" for number in range(4)) if self.names is None else self.names
        return {
            "labels.class": Field(kind="int", optional=True, classes=classes),
            "labels.place": Field(kind="int"),
        }


def put(root, counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for at in range(count):
            Image.new("RGB", (4, 4)).save(root / name / f"{at}.png")
    return root


def check(subset, whole):
    """What a subset says without reading samples is what its samples say."""
    assert isinstance(subset, Source)
    samples = [subset[at] for at in range(len(subset))]
    assert list(subset.keys()) == [sample.key for sample in samples]
    assert list(subset.keys()[1:3]) == [sample.key for sample in samples[1:3]]
    places = [whole.keys().index(key) for key in subset.keys()]  # noqa: SIM118
    assert places == sorted(set(places))
    for label in ("class", "place"):
        assert subset.labels(label).tolist() == [sample.labels[label] for sample in samples]
    assert not subset.schema()["labels.class"].optional
    assert subset[-1] == samples[-1]
    with pytest.raises(IndexError):
        subset[len(subset)]


@given(
    st.lists(st.integers(-1, 3), max_size=60),
    st.integers(1, 5),
    st.integers(0, 5),
    st.integers(-3, 3),
)
def test_shots_are_exact_in_each_class_and_nested(labels, few, more, draw):
    whole = Labelled([*labels, *[0, 1, 2, 3] * (few + more)])
    small, large = shots(whole, few, draw), shots(whole, few + more, draw)
    assert not whole.read
    assert np.bincount(small.labels("class")).tolist() == [few] * 4
    assert set(small.keys()) <= set(large.keys())
    assert list(shots(whole, few, draw).keys()) == list(small.keys())
    check(small, whole)


@given(st.lists(st.integers(-1, 3), max_size=60))
def test_base_and_novel_classes_partition_the_source(labels):
    whole = Labelled([*labels, 0, 1, 2, 3])
    base, novel = of_classes(whole, "base"), of_classes(whole, "novel")
    assert not whole.read
    assert base.schema()["labels.class"].classes == ("c0", "c1")
    assert novel.schema()["labels.class"].classes == ("c2", "c3")
    known = {f"k{at}" for at in np.flatnonzero(whole.values >= 0)}
    assert set(base.keys()) | set(novel.keys()) == known
    assert len(base) + len(novel) == len(known)
    for half, first in ((base, 0), (novel, 2)):
        check(half, whole)
        assert (half.labels("class") + first).tolist() == [
            whole.values[at] for at in half.labels("place")
        ]


@given(st.integers(2, 40))
def test_halves_are_those_of_the_evaluation(count):
    assert (
        novel_half(count).tolist()
        == novel_classes([str(at) for at in range(count)], "half").tolist()
    )
    assert (~novel_half(count)).sum() == -(-count // 2)


def test_other_seeds_draw_other_samples():
    whole = Labelled([0] * 50 + [1] * 50, ("a", "b"))
    drawn = {tuple(shots(whole, 4, seed).keys()) for seed in range(20)}
    assert len(drawn) == 20


def test_classes_by_name_keep_their_order_and_edits_follow():
    source = of_classes(Labelled([3, 0, 1, 2, 3]), "c3+c1")
    assert source.schema()["labels.class"].classes == ("c1", "c3")
    assert source.labels("class").tolist() == [1, 0, 1]
    assert [sample.edits[0].labels["class"] for sample in map(source.__getitem__, range(3))] == [
        -1,
        -1,
        -1,
    ]
    source = of_classes(Labelled([3, 0, 1, 2, 3]), "c0+c3")
    assert [sample.edits[0].labels["class"] for sample in map(source.__getitem__, range(3))] == [
        0,
        -1,
        0,
    ]


def test_choosing_classes_first_changes_no_draw(tmp_path):
    put(tmp_path, {"ant": 6, "bee": 7, "cat": 8, "dog": 5})
    alone = set(open_source(f"{tmp_path}:shots=3:draw=2").keys())
    for half in ("base", "novel"):
        keys = set(open_source(f"{tmp_path}:shots=3:draw=2:classes={half}").keys())
        assert len(keys) == 6
        assert keys < alone


def test_options_combine_in_any_order_of_any_source(tmp_path):
    put(tmp_path / "pets", {"ant": 4, "bee": 4, "cat": 4, "dog": 4})
    source = open_source(f"{tmp_path}/pets/:part=2/2:shots=2:classes=base")
    assert source.name == f"{tmp_path}/pets:classes=base:shots=2:draw=0:part=2/2"
    assert source.schema()["labels.class"].classes == ("ant", "bee")
    assert [key[:3] for key in source.keys()] == ["bee", "bee"]  # noqa: SIM118
    assert source[0].labels == {"class": 1}
    assert pickle.loads(pickle.dumps(source)).labels("class").tolist() == [1, 1]
    both = open_source(
        f"{tmp_path}/pets/:classes=cat:shots=1,{tmp_path}/pets:classes=ant+cat:shots=2"
    )
    assert both.schema()["labels.class"].classes == ("cat", "ant")
    assert both.labels("class").tolist() == [0, 1, 1, 0, 0]
    glyphs = open_source("glyphs:split=test:shots=2:of=group:classes=base")
    assert np.bincount(glyphs.labels("group")).tolist() == [2] * 5
    assert len(open_source("scenes:count=40:shots=1:of=quadrant:size=32")) == 4


def test_a_card_and_a_table_take_them(tmp_path):
    put(tmp_path, {"all": 6})
    rows = [f"all/{at}.png,{'cat' if at % 2 else 'dog'},{at}" for at in range(6)]
    (tmp_path / "pets.csv").write_text("\n".join(["file,kind,weight", *rows]) + "\n")
    (tmp_path / "pets.toml").write_text(
        "title='x'\nsplits={train='pets.csv:label=kind:classes=cat+dog'}\nlicence='x'"
    )
    source = open_source(f"{tmp_path}/pets.toml:shots=2")
    assert source.labels("kind").tolist().count(0) == source.labels("kind").tolist().count(1) == 2


def test_numbers_without_names_are_classes_too():
    source = shots(Labelled([7, 7, 7, 4, 4, -1], ()), 2)
    assert sorted(source.labels("class").tolist()) == [4, 4, 7, 7]
    assert source.schema()["labels.class"].classes == ()


@pytest.mark.parametrize(
    ("labels", "names", "options", "message"),
    [
        (
            [0, 1],
            ("cat", "dog"),
            {"shots": 2},
            r"shots=2 of labelled are more than there are of cat \(1\), dog \(1\)",
        ),
        (
            [0, 0],
            ("cat", "dog"),
            {"shots": 2},
            r"shots=2 of labelled are more than there are of dog \(0\); ask for",
        ),
        (
            [0],
            tuple("abcdef"),
            {"shots": 1},
            r"of b \(0\), c \(0\), d \(0\) and 2 more; ask for fewer",
        ),
        ([-1], (), {"shots": 1}, "there are of any class"),
        (
            [0],
            ("cat",),
            {"shots": 0},
            "shots=0 of labelled is no number of samples; write 1 or more",
        ),
        ([0], ("cat",), {"shots": "few"}, "shots=few of labelled is no number"),
        ([0], ("cat",), {"shots": 1.5}, "is no number of samples"),
        (
            [0],
            ("cat",),
            {"shots": 1, "draw": "x"},
            "draw=x of labelled is no seed; write a whole number",
        ),
        ([0], ("cat",), {"draw": 1}, "draw= goes with shots=; add it, or leave draw= out"),
        ([0], ("cat",), {"of": "class"}, "of= goes with classes= or shots="),
        (
            [0],
            ("cat",),
            {"shots": 1, "of": "clas"},
            "unknown label of labelled 'clas'; did you mean 'class'",
        ),
        (
            [0, 1],
            ("cat", "dog"),
            {"classes": "dgo"},
            "unknown class of labelled 'dgo'; did you mean 'dog'",
        ),
        (
            [0],
            ("cat", "dog"),
            {"classes": "novel"},
            "no sample of labelled is of the class dog; choose others",
        ),
        (
            [0],
            tuple("abcdef"),
            {"classes": "all"},
            "of the classes b, c, d and 2 more; choose others",
        ),
        ([0], ("cat",), {"classes": "novel"}, "has 1 class, so none is novel"),
        (
            [0, 1],
            ("cat", "cat"),
            {"classes": "base"},
            "two classes of label 'class' of labelled have the name 'cat'",
        ),
        ([0], (), {"classes": "base"}, "have no names to choose them by"),
    ],
)
def test_what_cannot_be_had_is_told(labels, names, options, message):
    with pytest.raises(InputError, match=message):
        narrowed(Labelled(labels, names), options)


def test_the_label_is_not_guessed(tmp_path):
    put(tmp_path / "x", {"": 2})
    with pytest.raises(
        InputError, match=r"has no label that tells classes; put the images of each class"
    ):
        open_source(f"{tmp_path}/x:shots=1")
    with pytest.raises(
        InputError,
        match=r"glyphs has no one label of classes; choose by :of=LABEL of concept, group",
    ):
        open_source("glyphs:shots=1")


def test_a_class_with_fewer_gives_all_it_has_and_a_warning_tells(caplog):
    source = shots(Labelled([0, 0, 0, 1, 1, 0], ("cat", "dog")), 3)
    assert sorted(source.labels("class").tolist()) == [0, 0, 0, 1, 1]
    assert "shots=3 of labelled: dog (2) have fewer, and give all" in caplog.text
