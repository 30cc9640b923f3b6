"""The lexicon of sevlm: files in the form of NRC-VAD, and the values of tokens."""

import sys

import numpy as np
import pytest

from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.methods.fuse.sevlm.lexicon import read, token_values

HEAD = "Word\tValence\tArousal\tDominance"
LINES = ("aaaaaaah\t0.479\t0.606\t0.291", "calm\t0.875\t0.167\t0.453", "feel\t0.5\t0.75\t1.0")


def file(folder, *lines):
    path = folder / "NRC-VAD-Lexicon.txt"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def test_both_scales_are_read(tmp_path):
    one = read(file(tmp_path, HEAD, *LINES))
    assert list(one) == ["aaaaaaah", "calm", "feel"]
    assert one["calm"] == pytest.approx((0.75, -0.666, -0.094))
    assert read(file(tmp_path, *LINES)) == one
    rows = ("calm\t0.75\t-0.6\t0.0", "at ease\t0.5\t-0.5\t0.1", "Grim\t-0.5\t0.1\t0.2")
    two = read(file(tmp_path, "term\tvalence\tarousal\tdominance", *rows))
    assert two == {"calm": (0.75, -0.6, 0.0), "grim": (-0.5, 0.1, 0.2)}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((HEAD, "calm\t0.5\t0.5"), ":2: no word with its valence"),
        ((HEAD, "calm\t0.5\t0.5\thigh"), ":2: no word with its valence"),
        ((HEAD, "calm\t0.5\t0.5\t7.1"), ":2: no word with its valence"),
        ((HEAD, "calm\t0.5\t0.5\tnan"), ":2: no word with its valence"),
        ((HEAD,), "no word is in it"),
        (("",), "no word is in it"),
    ],
)
def test_damaged_files_are_refused(tmp_path, lines, said):
    with pytest.raises(InputError, match=said):
        read(file(tmp_path, *lines))


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"there is no lexicon in vad\.txt; name paintings"):
        read("vad.txt")


def tokens():
    return build("bpe:vocab_size=400:context=24", ["calm felt calming sky so"] * 3)


def test_tokens_have_the_values_of_their_words(tmp_path):
    lexicon = {"calm": (0.5, -0.5, 0.25), "storm": (-0.5, 0.5, 0.1)}
    tokenizer = tokens()
    found = token_values(lexicon, tokenizer, lemmas=False)
    [calm] = tokenizer.ids("calm")
    assert found[calm].tolist() == [0.5, -0.5, 0.25]
    assert found.shape == (tokenizer.vocab_size, 3)
    assert np.count_nonzero(found.any(1)) <= 2  # with and without the mark of a space
    assert not found[[*tokenizer.before, *tokenizer.after, tokenizer.pad]].any()


def test_a_control_permutes_the_values_among_the_words():
    words = ("calm", "felt", "calming", "sky", "so")
    lexicon = {word: (at / 10, 0.1, 0.2) for at, word in enumerate(words, 1)}
    plain = token_values(lexicon, tokens(), lemmas=False)
    moved = token_values(lexicon, tokens(), lemmas=False, permuted=1)
    assert np.allclose(np.sort(plain[:, 0]), np.sort(moved[:, 0]))
    assert not np.array_equal(plain, moved)
    assert np.array_equal(moved, token_values(lexicon, tokens(), lemmas=False, permuted=1))


def test_words_that_are_not_in_it_are_looked_up_by_their_lemma():
    pytest.importorskip("simplemma")
    lexicon = {"calm": (0.5, -0.5, 0.25), "feel": (0.2, 0.1, 0.3), "felt": (0.9, 0.9, 0.9)}
    tokenizer = tokens()
    found = token_values(lexicon, tokenizer)
    assert found[tokenizer.ids("calming")[0]].tolist() == [0.5, -0.5, 0.25]
    assert found[tokenizer.ids("felt")[0]] == pytest.approx([0.9, 0.9, 0.9])  # itself before
    assert not found[tokenizer.ids("sky")[0]].any()


def test_without_the_library_lemmas_say_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "simplemma", None)
    with pytest.raises(InputError, match=r"pip install 'diptych\[text\]', or leave them out"):
        token_values({"calm": (0.5, 0.5, 0.5)}, tokens())
