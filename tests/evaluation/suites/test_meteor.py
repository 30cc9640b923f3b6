"""METEOR's first two stages against all alignments of short texts, and by hand."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.helpers import Fake, Rows, row, vectors

from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites._meteor import aligned, report, score, stemmer
from diptych.evaluation.suites.captions import captions

WORDS = st.lists(st.sampled_from(["run", "runs", "dog", "dogs", "a"]), max_size=4)


def matchings(text, reference, stem):
    """Every way to pair words of equal stem, each word once at most, as pairs of places."""
    if not text:
        return [[]]
    rest = matchings(text[:-1], reference, stem)
    last = len(text) - 1
    more = [
        [*pairs, (last, at)]
        for pairs in rest
        for at, word in enumerate(reference)
        if stem(word) == stem(text[-1]) and at not in [other for _, other in pairs]
    ]
    return rest + more


def slow(text, reference, stem):
    """Words and chunks of the alignment that the definition names, by looking at all of them."""

    def cost(pairs):
        equal = sum(text[i] == reference[j] for i, j in pairs)
        crossings = sum((i - k) * (j - n) < 0 for i, j in pairs for k, n in pairs) // 2
        return -equal, -len(pairs), crossings, chunks(pairs)

    best = min(matchings(text, reference, stem), key=cost)
    return len(best), chunks(best)


def chunks(pairs):
    return len(pairs) - sum((i + 1, j + 1) in pairs for i, j in pairs)


@settings(max_examples=80, deadline=None)
@given(text=WORDS, reference=WORDS)
def test_an_alignment_has_most_words_fewest_crossings_and_fewest_chunks(text, reference):
    stem = stemmer()
    assert aligned(text, reference, stem) == slow(text, reference, stem)


def test_the_published_example():
    """Six words in two chunks, of a text of six and a reference of seven words."""
    text = "the president spoke to the audience"
    reference = "the president then spoke to the audience"
    assert aligned(text.split(), reference.split(), str) == (6, 2)
    mean = 10 * (6 / 7) / (6 / 7 + 9)
    expected = mean * (1 - 0.5 * (2 / 6) ** 3)
    assert report([text], [[reference]])["meteor_stem"] == pytest.approx(expected)


def test_recall_counts_nine_times_and_the_best_reference_counts():
    assert score(["a"], ["a", "b"], str) == pytest.approx(10 * 0.5 / (0.5 + 9) / 2)
    assert score(["a", "b"], ["a"], str) == pytest.approx(10 * 0.5 / (1 + 4.5) / 2)
    assert score([], ["a"], str) == score(["a"], [], str) == score(["a"], ["b"], str) == 0
    both = report(["The DOGS run!", "a cat"], [["no word", "the dogs run"], ["x"]])
    assert both["meteor_stem"] == pytest.approx((1 - 0.5 / 27) / 2)


def test_stems_count_as_words_and_synonyms_do_not():
    same = report(["dogs running"], [["dog runs"]])["meteor_stem"]
    assert same == pytest.approx(1 - 0.5 / 8)
    assert report(["hounds"], [["dogs"]])["meteor_stem"] == 0


def test_equal_words_come_before_words_of_equal_stem():
    """`runs` is paired with `runs`, though `run` would give one chunk."""
    stem = stemmer()
    assert aligned(["dogs", "runs"], ["dogs", "run", "a", "runs"], stem) == (2, 2)


def test_all_words_are_aligned_where_words_repeat_too_often_to_try_all_alignments():
    found, runs = aligned(["a", "b"] * 12, ["b", "a"] * 9 + ["c"], str)
    assert found == 18
    assert 1 <= runs <= 18


def test_the_suite_adds_meteor_where_it_is_asked_for():
    texts = ["a red dog", "two cats", "one bird"]
    source = Rows([row(str(at), at, text) for at, text in enumerate(texts)])
    model = Fake(vectors(0, 3))
    model.written = lambda number, prompt: ["a red dog", "a cat", "the bird"][number]
    found = captions(model, source, meteor=True)
    right = [[text] for text in texts]
    assert found["meteor_stem"] == report(["a red dog", "a cat", "the bird"], right)["meteor_stem"]
    blind = report([texts[1], texts[2], texts[0]], right)["meteor_stem"]
    assert found["chance_meteor_stem"] == blind < found["meteor_stem"]
    plain = captions(model, source)
    assert "meteor_stem" not in plain
    assert plain["protocol"] == found["protocol"]


def test_without_its_library_the_remedy_is_named_before_the_first_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "snowballstemmer", None)
    source = Rows([row("0", 0, "a dog")])
    with pytest.raises(InputError, match=r"pip install 'diptych\[text\]'"):
        evaluate(Fake(vectors(0, 1)), source, ["captions"], meteor=True)
