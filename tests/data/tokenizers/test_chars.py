"""Characters and words as tokens."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.tokenizers import Chars, Words, build, from_dict, pad_batch, train_words
from diptych.errors import InputError


def test_ids_are_places_in_the_printable_characters_from_one_on():
    """0 pads, and what is not printable ASCII has an id of its own."""
    tokenizer = build("chars")
    assert tokenizer.ids(string.printable) == list(range(1, 101))
    assert (tokenizer.pad, tokenizer.special["unk"], tokenizer.vocab_size) == (0, 101, 102)
    assert tokenizer.ids("0é日") == [1, 101, 101]


def test_upper_case_stays_unless_it_is_asked_for():
    assert build("chars").ids("A") != build("chars").ids("a")
    assert build("chars:lower=true").ids("A") == build("chars").ids("a")


@given(st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_text_has_an_id_a_character_and_printable_ones_come_back(text):
    tokenizer = Chars()
    ids = tokenizer.ids(text)
    assert all(0 < number < 102 for number in ids)
    known = [sign for sign in text if sign in string.printable]
    assert tokenizer.decode(ids).replace("\ufffd", "") == "".join(known)
    assert tokenizer.decode([0, *ids, 0]) == tokenizer.decode(ids)


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff b", "a cat\udc00"])
def test_a_lone_surrogate_is_one_unknown_character(text):
    ids = Chars().ids(text)
    assert ids.count(101) == 1
    assert len(ids) == len(text)
    assert len(train_words([text]).ids(text)) >= 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", "a cat ."),
        ("a cat .", "a cat ."),
        ("a cat.", "a cat."),
        ("a cat.\n", "a cat.\n"),
        ("", " ."),
    ],
)
def test_a_full_stop_is_added_where_a_text_has_none(text, expected):
    tokenizer = build("chars:full_stop=true")
    assert tokenizer.decode(tokenizer.ids(text)) == expected
    assert build("chars").ids("") == []


def test_a_text_beyond_the_context_is_cut_and_counted():
    tokenizer = build("chars:context=1000")
    text = "word " * 10_000
    (ids,) = tokenizer.encode([text])
    assert len(ids) == 1000
    assert tokenizer.lost(text) == 49_000


def test_an_alphabet_of_the_texts_has_their_characters_behind_the_printable_ones():
    tokenizer = build("chars:alphabet=texts", ["naïve Ärger", "日本"])
    assert tokenizer.ids("Äï日本") == [101, 102, 103, 104]
    assert tokenizer.special["unk"] == 105
    assert tokenizer.ids("a") == build("chars").ids("a")


def test_words_begin_behind_spaces():
    tokenizer = Chars()
    assert tokenizer.starts_word(tokenizer.ids("a red cat")) == [
        *[True, False, True, False, False, False, True, False, False]
    ]


@pytest.mark.parametrize(
    "spec",
    ["chars", "chars:full_stop=true:lower=true:special=mask", "words:vocab_size=4:special=mask"],
)
def test_a_saved_tokenizer_gives_the_same_ids(spec):
    tokenizer = build(spec, ["a red cat", "a dog"])
    again = from_dict(tokenizer.to_dict())
    assert again == tokenizer
    assert again.encode(["A red Cat"]) == tokenizer.encode(["A red Cat"])
    assert again.special == tokenizer.special


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("chars:context=0", "context is 0"),
        ("chars:padding=left", "padding"),
        ("chars:alphabet=latin", "alphabet"),
        ("chars:case=true", "case"),
        ("words:vocab_size=2", "vocab_size is 2"),
        ("words:context=0", "context is 0"),
    ],
)
def test_bad_options_are_refused(spec, message):
    with pytest.raises(InputError, match=message):
        build(spec, ["a"])
    with pytest.raises(InputError, match="each of its characters once"):
        Chars("aa")


def test_words_are_the_most_frequent_ones_in_lower_case():
    tokenizer = build("words:vocab_size=5", ["The cat, the dog", "the cat", "a"])
    assert isinstance(tokenizer, Words)
    assert tokenizer.words == ("the", "cat", ",")
    assert tokenizer.ids("THE dog, cat!") == [2, 1, 4, 3, 1]
    assert tokenizer.decode(tokenizer.ids("the dog")) == "the \ufffd"
    assert tokenizer.starts_word([2, 1]) == [True, True]


def test_rare_words_are_left_out_and_the_order_of_texts_does_not_matter():
    texts = ["b a", "a b", "c"]
    assert (
        build("words:least=2", texts).words
        == build("words:least=2", texts[::-1]).words
        == ("a", "b")
    )


def test_texts_are_padded_to_the_longest():
    tokenizer = Chars()
    ids, lengths = pad_batch(tokenizer.encode(["ab", "", "abcd"]), tokenizer)
    assert lengths.tolist() == [2, 0, 4]
    assert ids.shape == (3, 4)
    assert ids[1].sum() == 0
