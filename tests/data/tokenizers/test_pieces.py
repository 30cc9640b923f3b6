"""Vocabularies of pieces with scores: ids by the slow algorithm, and damaged files."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.tokenizers import HuggingFace, from_dict
from diptych.data.tokenizers.pieces import from_pieces, has_pieces
from diptych.errors import InputError

LETTERS = list(" abcd")
JOINED = {" a": -1.0, "ab": -2.0, " ab": -3.0, "cd": -4.0, "abcd": -5.0, "bc": -6.0, "dd": -7.0}
BYTES = [f"<0x{number:02X}>" for number in range(256)]
PIECES = ["<unk>", "\n<s>\n", "\n</s>\n", *BYTES, *JOINED, *LETTERS]
SCORES = [0.0] * 259 + list(JOINED.values()) + [-100.0 - place for place in range(len(LETTERS))]


def written(folder: Path, **changed: object) -> Path:
    values = {"pieces": PIECES, "scores": SCORES, **changed}
    (folder / "vocab.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> HuggingFace:
    return from_pieces(written(tmp_path_factory.mktemp("pieces")), context=16)


def slowly(text: str, pieces: list[str], scores: list[float]) -> list[int]:
    """The ids of a text: one character each, then the best pair again and again."""
    where = {piece: number for number, piece in enumerate(pieces)}
    ids = []
    for letter in " " + text if text else "":
        if letter in where:
            ids.append(where[letter])
        else:
            ids += [3 + byte for byte in letter.encode()]
    while True:
        pairs = [
            (scores[where[joined]], -place)
            for place in range(len(ids) - 1)
            if (joined := pieces[ids[place]] + pieces[ids[place + 1]]) in where
        ]
        if not pairs:
            return ids
        place = -max(pairs)[1]
        ids[place : place + 2] = [where[pieces[ids[place]] + pieces[ids[place + 1]]]]


@given(text=st.text(alphabet="abcd é漢\n", max_size=12))
def test_the_best_pair_is_joined_first(tokenizer: HuggingFace, text: str):
    assert tokenizer.ids(text) == slowly(text, PIECES, SCORES)
    assert tokenizer.decode(tokenizer.ids(text)) == text


def test_both_ends_are_marked_and_the_plain_values_give_the_same(tokenizer: HuggingFace):
    [ids] = tokenizer.encode(["abcd a"])
    assert (ids[0], ids[-1]) == (1, 2)
    assert (tokenizer.before, tokenizer.after, tokenizer.eot) == ((1,), (2,), 2)
    assert from_dict(json.loads(json.dumps(tokenizer.to_dict()))) == tokenizer
    assert tokenizer.starts_word(tokenizer.ids("abc a")) == [True, False, True]
    assert tokenizer.special == {"unk": 0, "s": 1, "/s": 2}


def test_another_vocab_json_is_none_of_pieces(tmp_path: Path):
    assert not has_pieces(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    assert not has_pieces(tmp_path)
    assert has_pieces(written(tmp_path))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pieces": ["a", "b"]}, r'"pieces" is not a list of at least three texts'),
        ({"pieces": [*PIECES[:-1], 7]}, r'"pieces" is not a list'),
        ({"scores": SCORES[:-1]}, r'"scores" is not a number for each'),
        ({"scores": [*SCORES[:-1], "high"]}, r'"scores" is not a number for each'),
        ({"pieces": [*PIECES[:-1], "a"]}, "has the piece 'a' twice"),
    ],
)
def test_damage_is_named(tmp_path: Path, changed: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        from_pieces(written(tmp_path, **changed), context=16)


def test_the_real_vocabulary_is_read_as_by_the_slow_algorithm(data_pack):
    folder = data_pack("stories260k")
    values = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    tokenizer = from_pieces(folder, context=512)
    for text in (
        "Once upon a time, there was a little girl named Lily.",
        'The dog said, "I\'m happy!"\nThey  played — all day 漢.',
    ):
        assert tokenizer.ids(text) == slowly(text, values["pieces"], values["scores"])
        assert tokenizer.decode(tokenizer.ids(text)) == text
