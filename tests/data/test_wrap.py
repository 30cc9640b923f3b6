"""Sources over another source: rows pick samples, keys and labels alike, and nothing is read to do
so."""

import math
import pickle
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.evaluation.helpers import Rows

from diptych.data.columns import WithColumns
from diptych.data.pairs import Paired
from diptych.data.sample import (
    Field,
    Sample,
    Source,
    keys_digest,
    labels_of,
    real_label,
    real_labels_of,
)
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.sources.filtered import Filtered
from diptych.data.sources.subset import Part, shots
from diptych.data.wrap import Only, Wrapped
from diptych.errors import InputError
from diptych.evaluation.suites._groups import Siblings
from diptych.lab.adapting import Noisy
from diptych.testing import Toy

COUNT = 12


class Counting(Toy):
    """Toys that count how often one is read, and have lost two."""

    def __init__(self):
        super().__init__(COUNT, ["images.main", "texts.caption", "labels.class"])
        self.read = 0
        self.damage = {"a": "truncated", "b": "html"}

    def __getitem__(self, index):
        self.read += 1
        if not -COUNT <= index < COUNT:
            raise IndexError(index)
        return super().__getitem__(range(COUNT)[index])

    def labels(self, name):
        assert name == "class"
        return np.arange(COUNT) % 8


class Shouting(Wrapped):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return replace(
            sample, texts=[replace(text, text=text.text.upper()) for text in sample.texts]
        )

    def schema(self):
        return {**super().schema(), "texts.loud": Field(kind="text")}


def check(source):
    """What a source says without reading samples is what its samples say."""
    assert isinstance(source, Source)
    samples = [source[at] for at in range(len(source))]
    assert list(source.keys()) == [sample.key for sample in samples]
    assert [source.keys()[at] for at in range(len(source))] == [sample.key for sample in samples]
    assert list(source.keys()[1:3]) == [sample.key for sample in samples[1:3]]
    assert source.labels("class").tolist() == [sample.labels["class"] for sample in samples]
    assert pickle.loads(pickle.dumps(source)).name == source.name
    if samples:
        assert source[-1].key == samples[-1].key
    with pytest.raises(IndexError):
        source[len(source)]


@given(st.lists(st.integers(0, COUNT - 1), max_size=20))
def test_rows_pick_samples_keys_and_labels_and_read_nothing(rows):
    whole = Counting()
    source = Wrapped(whole, np.array(rows, np.int64))
    assert len(source) == len(rows)
    assert list(source.keys()) == [f"{row:03d}" for row in rows]
    assert source.labels("class").tolist() == [row % 8 for row in rows]
    assert source.schema() == whole.schema()
    assert source.damage == whole.damage
    assert source.name == whole.name
    assert not whole.read
    check(source)


@given(st.integers(0, COUNT), st.integers(0, COUNT), st.integers(1, 4))
def test_a_range_is_rows_too(start, stop, step):
    rows = range(start, stop, step)
    source, same = Wrapped(Counting(), rows), Wrapped(Counting(), np.array(rows, np.int64))
    assert [sample.key for sample in source] == [sample.key for sample in same]
    assert source.labels("class").tolist() == same.labels("class").tolist()
    check(source)


@given(st.data())
def test_a_wrapped_source_is_wrapped_again(data):
    outer = data.draw(st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=15))
    inner = data.draw(st.lists(st.integers(0, len(outer) - 1), max_size=15))
    rows = [outer[at] for at in inner]
    once = Wrapped(Counting(), np.array(rows, np.int64))
    twice = Wrapped(Wrapped(Counting(), np.array(outer)), np.array(inner, np.int64))
    assert twice.keys() == once.keys() == [f"{row:03d}" for row in rows]
    assert not rows or twice.keys() != once.keys()[1:]
    assert twice.labels("class").tolist() == once.labels("class").tolist()
    assert keys_digest(twice) == keys_digest(once)
    check(twice)


def test_without_rows_it_is_the_source_itself():
    whole = Counting()
    source = Wrapped(whole, name="other")
    assert source.name == "other"
    assert len(source) == len(whole)
    assert source.keys() == whole.keys()
    assert source.labels("class").tolist() == whole.labels("class").tolist()
    assert not whole.read
    check(source)


def test_labels_of_a_source_that_keeps_none_are_read_at_the_rows_alone():
    samples = [
        Sample(key=str(at), source="rows", labels={"class": at % 3} if at else {})
        for at in range(6)
    ]
    read = []

    class Reading(Rows):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    source = Wrapped(Reading(samples), np.array([4, 0]))
    assert source.labels("class").tolist() == labels_of(source, "class").tolist() == [1, -1]
    assert set(read) == {4, 0}
    with pytest.raises(InputError, match="rows has no labels.clas"):
        source.labels("clas")


def test_a_missing_label_of_floats_is_nan():
    labels = [{"height": 0.5, "floors": 3}, {}, {"height": math.nan, "floors": -1}]
    samples = [Sample(key=str(at), source="rows", labels=each) for at, each in enumerate(labels)]
    kinds = {"labels.height": Field(kind="float"), "labels.floors": Field(kind="int")}
    source = Rows(samples, fields=kinds)
    np.testing.assert_equal(labels_of(source, "height"), [0.5, math.nan, math.nan])
    assert labels_of(source, "floors").tolist() == [3, -1, -1]
    for name, first in (("height", 0.5), ("floors", 3)):
        wanted = [first, math.nan, math.nan]
        np.testing.assert_equal(real_labels_of(source, name), wanted)
        np.testing.assert_equal([real_label(sample, name) for sample in samples], wanted)


def test_keys_are_looked_up_only_when_asked_for():
    class Keys(Sequence):
        def __len__(self):
            return 10**9

        def __getitem__(self, index):
            return f"{index:09d}"

    class Endless(Rows):
        def __len__(self):
            return 10**9

        def keys(self):
            return Keys()

    keys = Wrapped(Endless([]), range(10**9)).keys()
    assert len(keys) == 10**9
    assert list(keys[7:9]) == ["000000007", "000000008"]
    assert keys[-1] == "999999999"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda whole: WithColumns(whole, {"more": np.arange(COUNT)}),
        lambda whole: Paired(whole, np.array([0, 3, 3, 9]), np.zeros(4, int), ["text"], "matched"),
        lambda whole: Filtered(
            whole, np.array([1, 4, 10]), np.zeros(3, int), role="caption", name="kept"
        ),
        lambda whole: Part(whole, "2/3"),
        lambda whole: shots(whole, 1),
        lambda whole: Siblings(whole, "class"),
        lambda whole: Noisy(whole, 5.0),
        lambda whole: Only(whole, ["images.main", "labels.class"]),
    ],
    ids=["columns", "pairs", "kept", "part", "shots", "siblings", "noisy", "only"],
)
def test_every_wrapped_source_of_the_package_has_keys_labels_and_damage(wrap):
    whole = Counting()
    source = wrap(whole)
    assert isinstance(source, Wrapped)
    assert set(source.damage.items()) <= set(whole.damage.items())
    assert not whole.read
    check(source)


def test_what_a_subclass_changes_is_all_that_differs():
    source = Shouting(Counting(), np.array([2]))
    assert source[0].captions() == [Toy(COUNT)[2].captions()[0].upper()]
    assert "texts.loud" in source.schema()
    check(source)


def test_some_fields_alone_are_those_that_are_named(tmp_path):
    whole = open_source("scenes:count=4:edits=recolour:texts=caption+web:drop=0")
    named = ["images.main", "texts.web", "labels.object", "arrays.depth", "masks.class"]
    source = Only(whole, named)
    assert list(source.schema()) == named
    for sample, full in zip(source, whole, strict=True):
        assert list(sample.images) == ["main"]
        assert sample.images["main"].read() == full.images["main"].read()
        assert [text.role for text in sample.texts] == ["web"]
        assert sample.labels == {"object": full.labels["object"]}
        assert list(sample.arrays) == ["depth"]
        assert list(sample.masks) == ["class"]
        assert not sample.boxes
        assert not sample.edits
    assert [each.kind for each in Only(whole, ["edits"])[0].edits] == [
        each.kind for each in whole[0].edits
    ]
    write_shards(source, tmp_path)
    assert set(open_source(f"{tmp_path}/*.tar").schema()) == {*named, "texts.object_name"}
    with pytest.raises(InputError, match="unknown field of scenes.*'labels.objekt'; did you mean"):
        Only(whole, ["labels.objekt"])


def test_boxes_are_kept_with_or_without_their_masks():
    source = Toy(2, ["images.main", "boxes", "boxes.mask"])
    kept = Only(source, ["boxes", "boxes.mask"])
    assert all(box.mask is not None for box in kept[0].boxes)
    left = Only(source, ["boxes"])
    assert [box.mask for box in left[0].boxes] == [None] * 3
    assert list(left[0].boxes) == list(source[0].boxes)
    assert set(left.schema()) == {"boxes"}
