"""The pool of ranks outlives what breaks one of them."""

import os

import pytest

from diptych import collectives
from diptych.testing import Ranks
from diptych.testing.ranks import RankError


def number() -> int:
    return collectives.rank()


def die(which: int) -> None:
    if collectives.rank() == which:
        os._exit(3)


def fail(which: int) -> None:
    if collectives.rank() == which:
        raise ValueError("not on this rank")


def test_after_a_death_the_next_run_finds_all_ranks_and_a_failure_tells_where():
    with Ranks(2) as ranks:
        with pytest.raises(RankError, match="rank 1 died"):
            ranks.run(die, 1)
        assert ranks.run(number) == [0, 1]
        with pytest.raises(RankError, match=r"rank 1 failed:[\s\S]*not on this rank"):
            ranks.run(fail, 1)


def test_ranks_start_when_they_are_first_asked():
    with Ranks(2) as ranks:
        assert ranks._processes == []
