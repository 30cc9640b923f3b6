"""What the person who waits sees."""

import io

from rich.console import Console

from diptych.lab.live import Board


def play(console):
    board = Board("lion: is it?", {"theirs": 2, "ours": 2}, ("r1",), console)
    with board:
        board.known("theirs", {"r1": 0.5})
        board.hear("begun", "ours", "seed 1", None)
        board.hear("said", "ours", "seed 1", "step 7 of 9")
        shown = console.file.getvalue()
        board.hear("done", "ours", "seed 1", {"r1": 0.25, "hidden": 3.0})
        assert not board.full
        board.hear("begun", "ours", "seed 2", None)
        board.hear("done", "ours", "seed 2", {"r1": 0.75})
        board.known("theirs", {})
        assert board.full
    return shown


def test_on_a_terminal_a_table_fills():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    shown = play(console)
    for part in ("lion: is it?", "1/2", "0/2", "0.5", "seed 1 step 7 of 9"):
        assert part in shown, part
    rest = console.file.getvalue().removeprefix(shown)
    assert "2/2" in rest


def test_elsewhere_each_job_is_a_line_on_stderr(capsys):
    console = Console(file=io.StringIO())
    assert play(console) == ""
    assert console.file.getvalue() == ""
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["2 of 4: ours, seed 1, r1 0.25 (0 s)", "3 of 4: ours, seed 2, r1 0.75 (0 s)"]
