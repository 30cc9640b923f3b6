"""Progress on a screen that is no terminal."""

import time

import pytest

from diptych.cli import _screen
from diptych.cli._screen import duration, pace, progress, waiting


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(_screen.time, "perf_counter", lambda: now[0])

    def go(seconds):
        now[0] += seconds

    return go


def test_a_line_every_ten_seconds_has_the_rate_and_the_time_left(clock, capsys):
    with progress("embedding") as report:
        report(500, 1_000_000)  # of an earlier run, which has no rate
        for done in range(1, 8):
            clock(4)
            report(500 + done * 400, 1_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "embedding: 900 of 1,000,000 (100/s, 2 h 46 min left)",
        "embedding: 2,100 of 1,000,000 (100/s, 2 h 46 min left)",
        "embedding: 3,300 of 1,000,000 (100/s, 2 h 46 min left)",
    ]


def test_only_the_first_rank_reports(clock, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with progress("embedding") as report:
        report(0, 10)
        clock(20)
        report(5, 10)
    assert capsys.readouterr().err == ""


def test_short_work_is_not_reported(clock, capsys):
    with progress("embedding") as report:
        report(0, 10)
        clock(2)
        report(10, 10)
    assert capsys.readouterr().err == ""


def test_another_part_of_the_work_has_a_rate_of_its_own(clock, capsys):
    with progress("choosing") as report:
        report(0, 1000)
        report(1000, 1000)
        for done in range(3):
            clock(8)
            report(done * 8, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["choosing: 0 of 100", "choosing: 16 of 100 (1.0/s, 1 min 24 s left)"]


def test_work_without_steps_is_told_once_it_takes_long(monkeypatch, capsys):
    with waiting("counting"):
        pass
    monkeypatch.setattr(_screen, "PATIENCE", 0.01)
    with waiting("writing"):
        time.sleep(0.2)
    assert capsys.readouterr().err == "writing …\n"


@pytest.mark.parametrize(
    ("done", "left", "seconds", "said"),
    [
        (0, 5, 1.0, ""),
        (5, 5, 0.0, ""),
        (10, 0, 1.0, "10/s, 0 s left"),
        (1, 59, 1.0, "1.0/s, 59 s left"),
        (1, 60, 1.0, "1.0/s, 1 min left"),
        (20_000, 10**9, 1.0, "20,000/s, 13 h 53 min left"),
    ],
)
def test_a_rate_is_over_the_work_of_this_run(done, left, seconds, said):
    assert pace(done, left, seconds) == said


def test_a_time_has_its_two_largest_units():
    assert duration(0.2) == "0 s"
    assert duration(3599.6) == "1 h"
    assert duration(86_399) == "23 h 59 min"
    assert duration(10**9) == "11574 d 1 h"
