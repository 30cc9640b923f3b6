"""Retrieval among texts against loops, and without an image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.helpers import Fake, Words, vectors

from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.text_retrieval import text_retrieval


class TextsOnly:
    """Embeds texts and cannot do anything else."""

    identity = "texts"

    def __init__(self, table: np.ndarray):
        self.fake = Fake(table)

    def embed_texts(self, texts):
        return self.fake.embed_texts(texts)


NUMBERS = st.lists(st.integers(0, 12), min_size=0, max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6),
    tied=st.booleans(),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("same", [False, True])
def test_equals_loops_over_samples_and_texts(same, rows, tied, seed):
    table = np.sign(vectors(seed)) if tied else vectors(seed)
    model = TextsOnly(table)
    named = [
        {"caption": [f"t {n}" for n in a], "other": [] if same else [f"T {n}" for n in b]}
        for a, b in rows
    ]
    source = Words([*named, {"caption": ["t 0", "t 1"], "other": ["t 2"]}])
    used = []
    for each in source.rows:
        asked = {int(t[2:]) for t in each["caption" if same else "other"]}
        found = {int(t[2:]) for t in each["caption"]}
        if asked and found and len(asked | found) > 1:
            used.append((asked, found))
    targets = sorted(set().union(*(found for _, found in used)))
    right: dict[int, set[int]] = {}
    for asked, found in used:
        for query in asked:
            right.setdefault(query, set()).update(found)
    similar = (model.fake.vectors @ model.fake.vectors.T).numpy()
    ranks = []
    for query, mine in right.items():
        mine = mine - {query}
        if mine:
            best = max(similar[query, t] for t in mine)
            ranks.append(
                1
                + sum(
                    similar[query, t] >= best - 1e-6
                    for t in targets
                    if t not in mine and t != query
                )
            )
    result = text_retrieval(
        model, source, query="caption" if same else "other", role="caption", ks=(1, 2)
    )
    assert (result["n"], result["texts"]) == (len(ranks), len(targets))
    assert result["t2t_r1"] == pytest.approx(np.mean([rank <= 1 for rank in ranks]))
    assert result["t2t_r2"] == pytest.approx(np.mean([rank <= 2 for rank in ranks]))
    assert result["t2t_mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))


def test_chance_counts_the_query_out_of_the_gallery():
    source = Words([{"caption": ["t 1", "t 2"]}, {"caption": ["t 3", "t 4"]}])
    result = text_retrieval(TextsOnly(vectors(0)), source, ks=(1,))
    assert result["chance_t2t_r1"] == pytest.approx(1 / 3)  # of four texts three can be chosen
    assert result["chance_t2t_mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_paraphrases_ask_where_there_are_any_and_the_protocol_tells():
    source = Words(
        [{"caption": "t 1", "paraphrase": ["t 2", "t 3"]}, {"caption": "t 4", "paraphrase": "t 5"}]
    )
    by_default, named = (
        text_retrieval(TextsOnly(vectors(0)), source, query=q) for q in (None, "paraphrase")
    )
    assert by_default["n"] == 3
    assert by_default["protocol"] == named["protocol"]
    assert (
        text_retrieval(TextsOnly(vectors(0)), source, query="caption", role="paraphrase")["n"] == 2
    )


def test_one_wording_is_counted_and_nothing_else_is_an_error():
    source = Words([{"caption": "t 1"}, {"caption": ["t 2", "t 3"]}])
    assert text_retrieval(TextsOnly(vectors(0)), source)["bad"] == {"one-text": 1}
    with pytest.raises(
        InputError, match=r"none of the 1 samples of 'words' can be used \(1 one-text\)"
    ):
        text_retrieval(TextsOnly(vectors(0)), Words([{"caption": ["t 1", " T 1"]}]))


def test_needs_no_image_and_names_a_role_that_is_not_there():
    source = Words([{"caption": ["t 1", "t 2"]}])
    assert (
        evaluate(TextsOnly(vectors(0)), source, ["text_retrieval"])["text_retrieval"]["t2t_r1"]
        == 1.0
    )
    with pytest.raises(
        InputError, match="role of the texts of source 'words' 'captoin'; did you mean 'caption'"
    ):
        evaluate(TextsOnly(vectors(0)), source, ["text_retrieval"], query="captoin")
    with pytest.raises(
        InputError, match="retrieval needs images.main, which source 'words' does not give"
    ):
        evaluate(TextsOnly(vectors(0)), source, ["text_retrieval", "retrieval"])
