"""Evolution of sets: no set is scored twice, the best never gets worse, operators do what the paper
says."""

import numpy as np
import pytest

from diptych.methods.adapt.proapo.evolution import (
    Archive,
    Operators,
    SearchSpace,
    add_one,
    children,
    crossover,
    evolve,
    mutate,
    remove_one,
    replace_one,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def row(*elements, of=12):
    bits = np.zeros(of, bool)
    bits[list(elements)] = True
    return bits


def space(of=12, free=None, start=(), owner=None):
    free = np.ones(of, bool) if free is None else row(*free, of=of)
    owner = np.zeros(of, int) if owner is None else np.array(owner)
    return SearchSpace(free=free, start=row(*start, of=of), owner=owner)


def singles(fitness, of=12):
    return Archive(np.eye(of, dtype=bool)[: len(fitness)], np.array(fitness))


VALUES = np.array([3.0, -1, 2, -2, 4, -3, 1, -4, 2, -1, 3, -2])


def test_a_search_scores_no_set_twice_and_its_best_never_falls():
    scored = []
    best = []
    archive = singles([0.0, 0.0, 0.0, 0.0])

    def score(rows, origin):
        scored.extend(row.tobytes() for row in rows)
        return rows @ VALUES

    def callback(generation):
        best.append(archive.fitness.max())

    found = evolve(archive, score, space(), Operators(), rng(), 8, callback)
    assert len(scored) == len(set(scored)) == len(archive.rows) - 4
    assert best == sorted(best)
    assert len(best) == 8
    assert found.tolist() == (VALUES > 0).tolist()  # small enough to be found


def test_a_generation_has_as_many_sets_as_asked_for_where_there_are_enough():
    archive = Archive(rng().random((4, 40)) < 0.5, np.arange(4.0))
    rows, origin = children(archive, space(40), Operators(), rng(), 0)
    assert len(origin) == len(rows) == 4 * 24 + 24
    archive = singles([4.0, 3.0, 2.0, 1.0], of=40)
    rows, _ = children(archive, space(40), Operators(), rng(), 0)
    crossed = len(rows) - (4 * (8 + 8) + 8)  # nothing is removed from sets of one element
    assert 0 < crossed <= 11  # new sets of the four elements


def test_edits_differ_from_their_parent_by_one():
    parent, free = row(0, 1, 2, 3), np.ones(12, bool)
    assert {each.sum() for each in add_one(parent, free, rng(), 50)} == {5}
    assert {each.sum() for each in remove_one(parent, free, rng(), 50)} == {3}
    for each in replace_one(parent, free, rng(), 50):
        assert (each & parent).sum() == 3
        assert (each & ~parent).sum() == 1
    assert len(remove_one(row(0, 1), free, rng(), 50)) == 0
    assert len(remove_one(row(0, 1, 2), free, rng(), 50)) == 50
    assert len(add_one(np.ones(12, bool), free, rng(), 50)) == 0
    assert len(replace_one(np.ones(12, bool), free, rng(), 50)) == 0


def test_a_parent_that_holds_the_whole_library_has_no_children():
    archive = Archive(np.ones((1, 5), bool), np.array([1.0]))
    rows, _ = children(archive, space(5), Operators(mutate=0), rng(), 0)
    assert rows.shape == (0, 5)


def test_a_library_of_one_gives_that_one():
    archive = singles([7.0], of=1)
    assert evolve(
        archive, lambda rows, origin: np.zeros(len(rows)), space(1), Operators(), rng(), 4
    ).tolist() == [True]
    assert len(archive.rows) == 1


@pytest.mark.parametrize("generation", [0, 3, 30])
def test_mutation_adds_to_the_start_and_grows_with_the_generations(generation):
    free = row(*range(2, 12))
    free[3] = False
    rows = mutate(row(0, 2), free, rng(), 40, 2 + generation)
    assert rows[:, [0, 2]].all()
    assert not rows[:, [1, 3]].any()
    assert {each.sum() for each in rows} == {min(2 + (2 + generation), 10)}


def test_crossover_keeps_common_elements_and_draws_the_others_by_their_counts():
    parents = np.stack([row(0, 1, 2), row(0, 1, 3), row(0, 1, 2), row(0, 4)])
    rows = crossover(parents, row(0, 1, 2), np.ones(12, bool), rng(), 4000)
    assert rows[:, 0].all()
    assert not rows[:, 5:].any()
    drawn = rows[:, 1:5].sum(1)
    assert {1, 2, 3, 4} == set(drawn.tolist())
    assert np.abs(np.bincount(drawn)[1:] / 4000 - 0.25).max() < 0.03
    first = rows[drawn == 1][:, 1:5].mean(0)  # counts 3, 2, 1, 1
    assert first == pytest.approx([3 / 7, 2 / 7, 1 / 7, 1 / 7], abs=0.05)


def test_crossover_needs_two_elements_that_only_some_parents_hold():
    parents = np.stack([row(0, 1), row(0, 1), row(0, 1), row(0)])
    assert len(crossover(parents, row(0), np.ones(12, bool), rng(), 9)) == 0


def test_elements_that_are_not_free_stay_and_no_owner_is_left_empty():
    owner = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    archive = Archive(row(0, 3, 4, 5, 6, 9)[None], np.array([1.0]))
    limited = space(free=(0, 1, 3, 4, 5), start=(0, 3, 4, 5, 6, 9), owner=owner)
    seen = 0
    for generation in range(12):
        rows, _ = children(archive, limited, Operators(), rng(generation), generation)
        archive.add(rows, rows @ VALUES)
        seen += len(rows)
        assert rows[:, [6, 9]].all()
        assert not rows[:, [2, 7, 8, 10, 11]].any()
        assert rows[:, :3].any(1).all()
        assert rows[:, 3:6].any(1).all()
    assert (
        10 < seen == len(np.unique(archive.rows, axis=0)) - 1 < 3 * 7
    )  # the size of the search space


def test_children_come_with_the_parent_that_they_differ_from_in_free_elements_only():
    rows = np.stack([row(0, 6), row(1, 7), row(2, 8), row(0, 1, 2, 6)])
    archive = Archive(rows, np.array([1.0, 2.0, 3.0, 4.0]))
    limited = space(free=(0, 1, 2, 3, 4), start=(0, 6))
    found, origin = children(archive, limited, Operators(), rng(), 0)
    assert set(origin.tolist()) == {0, 1, 2, 3}
    assert (found[:, 5:] == archive.rows[origin][:, 5:]).all()


def test_of_sets_with_equal_fitness_the_earlier_is_the_best():
    assert singles([1.0, 2.0, 2.0, 0.0]).best(3).tolist() == [1, 2, 0]
