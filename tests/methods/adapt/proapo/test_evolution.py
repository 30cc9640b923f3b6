"""Sets that evolve: no set twice, the best never worse, operators as the sheet has them."""

import numpy as np
import pytest

from diptych.methods.adapt.proapo import evolution
from diptych.methods.adapt.proapo.evolution import (
    Operators,
    Record,
    Room,
    added,
    children,
    crossed,
    evolve,
    mutated,
    removed,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def row(*held, of=12):
    bits = np.zeros(of, bool)
    bits[list(held)] = True
    return bits


def room(of=12, free=None, start=(), owner=None):
    free = np.ones(of, bool) if free is None else row(*free, of=of)
    owner = np.zeros(of, int) if owner is None else np.array(owner)
    return Room(free=free, start=row(*start, of=of), owner=owner)


def singles(fitness, of=12):
    return Record(np.eye(of, dtype=bool)[: len(fitness)], np.array(fitness))


WORTH = np.array([3.0, -1, 2, -2, 4, -3, 1, -4, 2, -1, 3, -2])


def test_a_search_scores_no_set_twice_and_its_best_never_falls():
    asked, best = [], []
    record = singles([0.0, 0.0, 0.0, 0.0])

    def score(rows, origin):
        asked.extend(row.tobytes() for row in rows)
        return rows @ WORTH

    found = evolve(record, score, room(), Operators(), rng(), 8, lambda step: best.append(record.fitness.max()))
    assert len(asked) == len(set(asked)) == len(record.rows) - 4
    assert best == sorted(best)
    assert len(best) == 8
    assert found.tolist() == (WORTH > 0).tolist()  # easy: it is found


def test_a_generation_has_as_many_sets_as_asked_where_there_are_so_many():
    record = Record(rng().random((4, 40)) < 0.5, np.arange(4.0))
    rows, origin = children(record, room(40), Operators(), rng(), 0)
    assert len(origin) == len(rows) == 4 * 24 + 24
    record = singles([4.0, 3.0, 2.0, 1.0], of=40)
    rows, _ = children(record, room(40), Operators(), rng(), 0)
    assert 0 < len(rows) - (4 * (8 + 8) + 8) <= 11  # nothing is removed from one; four that differ cross in 11 new ways


def test_edits_differ_from_their_parent_by_one():
    parent, free = row(0, 1, 2, 3), np.ones(12, bool)
    assert {each.sum() for each in added(parent, free, rng(), 50)} == {5}
    assert {each.sum() for each in removed(parent, free, rng(), 50)} == {3}
    for each in evolution.replaced(parent, free, rng(), 50):
        assert (each & parent).sum() == 3
        assert (each & ~parent).sum() == 1
    assert len(removed(row(0, 1), free, rng(), 50)) == 0
    assert len(removed(row(0, 1, 2), free, rng(), 50)) == 50
    assert len(added(np.ones(12, bool), free, rng(), 50)) == 0
    assert len(evolution.replaced(np.ones(12, bool), free, rng(), 50)) == 0


def test_a_parent_that_holds_the_whole_library_has_no_children():
    record = Record(np.ones((1, 5), bool), np.array([1.0]))
    rows, _ = children(record, room(5), Operators(mutate=0), rng(), 0)
    assert rows.shape == (0, 5)


def test_a_library_of_one_gives_that_one():
    record = singles([7.0], of=1)
    assert evolve(record, lambda rows, origin: np.zeros(len(rows)), room(1), Operators(), rng(), 4).tolist() == [True]
    assert len(record.rows) == 1


@pytest.mark.parametrize("step", [0, 3, 30])
def test_mutation_grows_with_the_generations_and_adds_to_its_start(step):
    free = row(*range(2, 12))
    free[3] = False
    rows = mutated(row(0, 2), free, rng(), 40, 2 + step)
    assert rows[:, [0, 2]].all()
    assert not rows[:, [1, 3]].any()
    assert {each.sum() for each in rows} == {min(2 + (2 + step), 10)}


def test_crossover_keeps_what_all_hold_and_draws_the_rest_by_how_many_hold_it():
    parents = np.stack([row(0, 1, 2), row(0, 1, 3), row(0, 1, 2), row(0, 4)])
    rows = crossed(parents, row(0, 1, 2), np.ones(12, bool), rng(), 4000)
    assert rows[:, 0].all()
    assert not rows[:, 5:].any()
    drawn = rows[:, 1:5].sum(1)
    assert {1, 2, 3, 4} == set(drawn.tolist())
    assert np.abs(np.bincount(drawn)[1:] / 4000 - 0.25).max() < 0.03
    first = rows[drawn == 1][:, 1:5].mean(0)  # counts 3, 2, 1, 1
    assert first == pytest.approx([3 / 7, 2 / 7, 1 / 7, 1 / 7], abs=0.05)


def test_crossover_needs_two_that_differ():
    parents = np.stack([row(0, 1), row(0, 1), row(0, 1), row(0)])
    assert len(crossed(parents, row(0), np.ones(12, bool), rng(), 9)) == 0


def test_what_is_not_free_stays_and_no_owner_is_left_empty():
    owner = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    record = Record(row(0, 3, 4, 5, 6, 9)[None], np.array([1.0]))
    limits = room(free=(0, 1, 3, 4, 5), start=(0, 3, 4, 5, 6, 9), owner=owner)
    seen = 0
    for step in range(12):
        rows, _ = children(record, limits, Operators(), rng(step), step)
        record.add(rows, rows @ WORTH)
        seen += len(rows)
        assert rows[:, [6, 9]].all()
        assert not rows[:, [2, 7, 8, 10, 11]].any()
        assert rows[:, :3].any(1).all()
        assert rows[:, 3:6].any(1).all()
    assert 10 < seen == len(np.unique(record.rows, axis=0)) - 1 < 3 * 7  # so many does the room allow


def test_children_stand_beside_the_parent_that_they_differ_from_in_free_places_alone():
    rows = np.stack([row(0, 6), row(1, 7), row(2, 8), row(0, 1, 2, 6)])
    record = Record(rows, np.array([1.0, 2.0, 3.0, 4.0]))
    limits = room(free=(0, 1, 2, 3, 4), start=(0, 6))
    found, origin = children(record, limits, Operators(), rng(), 0)
    assert set(origin.tolist()) == {0, 1, 2, 3}
    assert (found[:, 5:] == record.rows[origin][:, 5:]).all()


def test_of_equal_sets_the_earlier_is_the_best():
    assert singles([1.0, 2.0, 2.0, 0.0]).best(3).tolist() == [1, 2, 0]
