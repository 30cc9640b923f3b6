"""EmoBank's sentences, on fixtures of its true form."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.sources import formats, open_source
from diptych.errors import InputError
from diptych.spec import parse

HEAD = "id,split,V,A,D,text"
ROWS = (
    '110CYL068_1036_1079,train,3.0,3.0,3.2,"Remember what she said in my last letter? """',
    "110CYL068_1079_1110,test,2.8,3.1,2.8,If I wasn't working here.",
    '110CYL068_1475_1558,train,3.6,3.3,3.8,"Coming to Goodwill, was the first step."',
    "Nonexistent_1,dev,1.0,5.0,1.2,“Forests for Life”",
)


@pytest.fixture
def write(tmp_path):
    """A function that writes the lines of a file."""

    def written(*lines, name="emobank.csv"):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return str(path)

    return written


def test_sentences_have_their_ratings(write):
    source = open_source(write(HEAD, *ROWS))
    assert len(source) == 4
    assert source.keys()[1] == "110CYL068_1079_1110"
    sample = source[0]
    assert sample.captions() == ['Remember what she said in my last letter? "']
    assert sample.labels == {"valence": 3.0, "arousal": 3.0, "dominance": 3.2}
    assert source.labels("dominance").tolist() == [3.2, 2.8, 3.8, 1.2]
    assert {name: field.kind for name, field in source.schema().items()} == {
        "texts.caption": "text",
        "labels.valence": "float",
        "labels.arousal": "float",
        "labels.dominance": "float",
    }
    assert not source.damage


def test_splits_are_chosen(write):
    path = write(HEAD, *ROWS)
    assert len(open_source(f"{path}:split=train")) == 2
    assert len(open_source(f"{path}:split=dev+test")) == 2
    with pytest.raises(InputError, match="unknown split of .*'val'"):
        open_source(f"{path}:split=val")


def test_the_first_version_and_json_lines_are_read(write):
    first = ['"id","V","A","D","text"', '"a_1",3.0,2.5,3.2,"So ""calm""."']
    assert open_source(write(*first))[0].captions() == ['So "calm".']
    row = {"split": "train", "text": "So calm.", "valence": 3, "arousal": 2.5, "dominance": 3.2}
    source = open_source(write(json.dumps(row), json.dumps(row | {"text": "x"}), name="all.jsonl"))
    assert list(source.keys()) == ["1", "2"]
    assert source[0].labels == {"valence": 3.0, "arousal": 2.5, "dominance": 3.2}


def test_other_tables_are_left_to_their_readers(write):
    for lines, name in (
        ((HEAD + ",image", "1,train,3,3,3,a,b.png"), "a.csv"),
        (("id,V,A,text", "1,3,3,a"), "b.csv"),
        (('{"text": "a", "valence": 3, "arousal": 3}',), "c.jsonl"),
        (('["text"]',), "d.jsonl"),
        (("{",), "e.jsonl"),
    ):
        assert not formats()["emobank"].claims(parse(write(*lines, name=name)))


def test_rows_that_cannot_be_read_are_counted(write):
    bad = ("a,train,3,3,high,x", "b,train,3,3,3,", "c,train,3,3,5.1,x", "d,train,nan,3,3,x")
    source = open_source(write(HEAD, ROWS[0], *bad))
    assert len(source) == 1
    assert list(source.damage.values()) == ["columns", "columns", "rating", "rating"]
    with pytest.raises(InputError, match="no row has a text with its valence"):
        open_source(write(HEAD, *bad))


@settings(deadline=None, max_examples=60)
@given(cells=st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=6, max_size=6))
def test_a_damaged_row_is_counted_or_read_and_leaves_the_rest(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("emobank") / "emobank.csv"
    damaged = ",".join(cells).replace("\n", " ").replace("\r", " ")
    path.write_bytes("\n".join([HEAD, ROWS[1], damaged]).encode())
    source = open_source(str(path))
    assert source[0].labels["valence"] == 2.8
    assert len(source) + len(source.damage) in (1, 2)  # a blank line is no row
    assert np.isfinite(source.labels("valence")).all()


def test_the_real_pack_is_read_whole(data_pack):
    path = data_pack("emobank") / "all.jsonl"
    source = open_source(str(path))
    assert (len(source), len(source.damage)) == (10_062, 0)
    sizes = [len(open_source(f"{path}:split={name}")) for name in ("train", "dev", "test")]
    assert sum(sizes) == 10_062
    assert min(sizes) > 900
