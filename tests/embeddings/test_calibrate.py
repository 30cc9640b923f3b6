"""The choice of lists and candidates, on searches whose recall is known."""

import pytest
import torch

from diptych.embeddings.calibrate import Asked, cheapest


def test_lists_whose_mean_just_reaches_the_recall_are_too_few():
    """Of 20 answers half of the queries find all and half 16 in two lists, a mean of 0.9, above the
    0.89 that is asked for; with three lists all find 19. The margin of two standard errors takes
    the third list."""
    share = {1: (10, 10), 2: (20, 16), 3: (19, 19)}

    def search(queries, k, nprobe):
        found = torch.tensor(share.get(nprobe, (20, 20))).repeat(len(queries) // 2)
        scores = (torch.arange(k) < found[:, None]).float()
        return scores, torch.zeros(len(queries), k, dtype=torch.long)

    asked = Asked(queries=torch.zeros(100, 4), own=None, worst=torch.full((100, 1), 0.5))
    found = cheapest(search, {"images": asked}, 0.89, k=20, most=20, lists=8, rows=800)
    assert (found.nprobe, found.candidates, found.enough) == (3, 20, True)
    assert found.measured == {"images": pytest.approx(0.95)}


def _asked(own=None):
    """A hundred queries, for which a cosine of 0.5 is a right answer."""
    return Asked(queries=torch.zeros(100, 4), own=own, worst=torch.full((100, 1), 0.5))


def _found_at(places):
    """A search of `lists` in all whose 10 right answers are the candidates at `places(nprobe)`."""

    def search(queries, number, nprobe):
        scores = torch.zeros(len(queries), number)
        scores[:, [at for at in places(nprobe) if at < number]] = 1.0
        return scores, torch.arange(1, number + 1).expand(len(queries), -1)

    return search


@pytest.mark.parametrize(
    ("rows", "setting"),
    [
        (8000, (24, 10)),  # 40 rows a list: 19 more lists cost less than 40 candidates, at 32 each
        (800_000, (5, 50)),  # 4000 rows a list
    ],
)
def test_more_lists_are_read_where_they_save_enough_candidates(rows, setting):
    """Four lists hold 9 of 10 answers, five all, the last at place 49; from 20 on all are first."""

    def places(nprobe):
        last = 9 if nprobe >= 20 else 49
        return [*range(9), *([last] if nprobe >= 5 else [])]

    found = cheapest(
        _found_at(places), {"images": _asked()}, 0.95, k=10, most=320, lists=200, rows=rows
    )
    assert (found.nprobe, found.candidates) == setting  # 24 follows 5 in steps of a quarter
    assert found.measured == {"images": 1.0}


def test_every_candidate_of_every_list_may_be_too_few():
    found = cheapest(
        _found_at(lambda nprobe: range(9)),
        {"images": _asked()},
        0.95,
        k=10,
        most=320,
        lists=7,
        rows=700,
    )
    assert (found.nprobe, found.candidates, found.enough) == (7, 320, False)
    assert found.measured == {"images": pytest.approx(0.9)}


def test_the_own_row_of_a_query_is_no_answer_and_takes_no_candidates_place():
    """Row 4, at place 3, is the query's own: the tenth other answer is at place 10."""
    asked = _asked(own=torch.full((100,), 4))
    found = cheapest(
        _found_at(lambda nprobe: range(11)), {"images": asked}, 0.95, k=10, most=20, lists=1, rows=9
    )
    assert (found.candidates, found.measured) == (10, {"images": 1.0})
    found = cheapest(
        _found_at(lambda nprobe: range(10)), {"images": asked}, 0.95, k=10, most=20, lists=1, rows=9
    )
    assert (found.enough, found.measured) == (False, {"images": pytest.approx(0.9)})
