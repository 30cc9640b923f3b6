"""Reranking against loops: the match ability orders the first k, and reads each image once more."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.helpers import Fake, Rows, row, vectors

from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.retrieval import retrieval


def unit(table: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(table).float(), dim=1)


def two_stages(scores: np.ndarray, match: np.ndarray, right: np.ndarray, k: int) -> list[int]:
    """Ranks by sorting: wrong ones first where they tie, then the first k again by match."""
    found = []
    for line, second, good in zip(scores, match, right, strict=True):
        lowered = line - 1e-6 * good
        order = sorted(range(len(line)), key=lambda i: (-lowered[i], good[i]))
        head = sorted(order[:k], key=lambda i: (-second[i], good[i]))
        found.append(1 + next(place for place, i in enumerate([*head, *order[k:]]) if good[i]))
    return found


@settings(max_examples=40, deadline=None)
@given(
    captions=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=8),
    tied=st.booleans(),
    k=st.integers(1, 12),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 100),
)
def test_reranked_recall_equals_sorting_twice(captions, tied, k, batch_size, seed):
    model = Fake(
        np.sign(vectors(seed))[:, :4] if tied else vectors(seed)
    )  # halves: products of them are exact
    model.matcher = torch.from_numpy(np.sign(vectors(seed + 1))).float()
    samples = [
        row(str(i), i, *(f"Text {n}" for n in numbers)) for i, numbers in enumerate(captions)
    ]
    samples.insert(1, row("bad", 0, "Text 3", damage="html"))
    result = retrieval(model, Rows(samples), ks=(1, 2), rerank=k, batch_size=batch_size)
    texts = list(
        dict.fromkeys(n for numbers in captions for n in numbers)
    )  # in the suite's order, which ties follow
    right = np.array([[text in numbers for text in texts] for numbers in captions])
    scores, match = (
        table[: len(captions)] @ table[texts].T for table in (model.vectors, model.matcher)
    )
    for name, s, m, good in (("i2t", scores, match, right), ("t2i", scores.T, match.T, right.T)):
        ranks = np.array(two_stages(s.numpy(), m.numpy(), good, k))
        for recalled in (1, 2):
            assert result[f"reranked_{name}_r{recalled}"] == pytest.approx(
                (ranks <= recalled).mean()
            )
        assert result[f"reranked_{name}_mrr"] == pytest.approx((1 / ranks).mean())
        assert result[f"chance_reranked_{name}_r1"] == result[f"chance_{name}_r1"]


def test_a_match_that_knows_mends_a_blind_embedding_within_the_first_k():
    """All embeddings are one point, so every right answer comes last; match knows, and only k
    decides."""
    model = Fake(np.ones((10, 4)))
    model.matcher = torch.eye(10)
    source = Rows([row(str(i), i, f"text {i}") for i in range(10)])
    for k, expected in ((9, 0.0), (10, 1.0)):
        result = retrieval(model, source, ks=(1,), rerank=k)
        assert result["i2t_r1"] == result["t2i_r1"] == 0.0
        assert result["reranked_i2t_r1"] == result["reranked_t2i_r1"] == expected


def test_the_protocol_tells_how_many_were_reranked():
    source = Rows([row(str(i), i, f"text {i}") for i in range(4)])
    plain, two, three = (
        retrieval(Fake(vectors(0)), source, rerank=k)["protocol"] for k in (0, 2, 3)
    )
    assert len({plain, two, three}) == 3


def test_matching_takes_no_more_pairs_at_once_than_asked():
    model, sizes = Fake(vectors(0)), []
    match = model.match

    def watched(images, texts, *, batch_size):
        sizes.append(len(texts))
        return match(images, texts, batch_size=batch_size)

    model.match = watched
    retrieval(model, Rows([row(str(i), i, f"text {i}") for i in range(7)]), rerank=4, batch_size=3)
    assert max(sizes) == 3


def test_what_cannot_be_reranked_is_refused_before_anything_is_computed():
    class NoMatch(Fake):
        match = property()

    source = Rows([row("a", 1, "t 1")])
    for model, k, message in (
        (NoMatch(vectors(0)), 2, "reranking needs a model with match, which NoMatch has not"),
        (Fake(vectors(0)), -1, "rerank is -1"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(model, source, ["retrieval"], rerank=k)
        assert not model.seen
