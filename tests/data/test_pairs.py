"""Pairs of a sample and a text that was found for it: a source as any other."""

import pickle

import numpy as np
from tests.evaluation.helpers import Rows

from diptych.data.pairs import Paired, by_text
from diptych.data.plan import Distinct, Shuffled
from diptych.data.sample import Sample, Text
from diptych.testing import Toy

TOY = Toy(6, ["images.main", "texts.caption", "labels.class"])


def paired():
    return Paired(
        TOY, np.array([0, 0, 2, 5, 5, 5]), np.array([1, 0, 2, 2, 1, 0]), ["x", "y", "z"], "matched"
    )


def test_each_pair_is_the_sample_with_its_text_alone():
    source = paired()
    assert len(source) == 6
    assert [sample.captions("*") for sample in source] == [["y"], ["x"], ["z"], ["z"], ["y"], ["x"]]
    assert source[-1].captions("matched") == ["x"]
    assert [sample.labels["class"] for sample in source] == [0, 0, 2, 5, 5, 5]
    assert (
        [sample.labels["origin"] for sample in source]
        == source.labels("origin").tolist()
        == [0, 0, 2, 5, 5, 5]
    )
    assert source.labels("class").tolist() == [0, 0, 2, 5, 5, 5]
    assert (
        [sample.key for sample in source]
        == list(source.keys())
        == [
            "000#0",
            "000#1",
            "002#2",
            "005#3",
            "005#4",
            "005#5",
        ]
    )
    assert np.array_equal(
        np.asarray(source[3].images["main"].decode()), np.asarray(TOY[5].images["main"].decode())
    )


def test_its_schema_is_what_its_samples_have():
    assert set(paired().schema()) == {
        "images.main",
        "texts.matched",
        "labels.class",
        "labels.origin",
    }


def test_an_epoch_meets_every_pair_once_and_pairs_of_a_image_can_be_kept_apart():
    source = paired()
    batches = Shuffled()(source, 0, 1, 4)
    assert sorted(np.concatenate(batches).tolist()) == list(range(6))
    for batch in Distinct("origin")(source, 0, 0, 4):
        origins = source.labels("origin")[batch]
        assert len(set(origins.tolist())) == len(origins)


def test_it_goes_to_workers():
    again = pickle.loads(pickle.dumps(paired()))
    assert again[3].captions("matched") == ["z"]


def test_each_text_of_a_sample_is_a_sample_where_there_are_several():
    one = Rows(
        [Sample(key=str(at), source="rows", texts=[Text(text=f"t {at}")]) for at in range(3)]
    )
    assert by_text(one, "caption") is one
    some = [
        Sample(
            key="a",
            source="rows",
            texts=[Text(text="1"), Text(text="x", role="other"), Text(text="2")],
        ),
        Sample(key="b", source="rows"),
        Sample(key="c", source="rows", texts=[Text(text="3")]),
    ]
    pairs = by_text(Rows(some), "caption")
    assert [sample.captions() for sample in pairs] == [["1"], ["2"], [""], ["3"]]
    assert list(pairs.keys()) == ["a#0", "a#1", "b#2", "c#3"]
