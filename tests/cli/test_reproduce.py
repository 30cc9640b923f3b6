"""`diptych reproduce`: what it shows and stores, and that a run that is stopped or killed goes
on."""

import json
import os
import signal

import pytest
from tests.cli.helpers import finish, shell

from diptych.lab import claim

FILE = '''
"""Two arms, exact; the second waits where the test has laid pipes beside this file."""

from pathlib import Path

from diptych.lab.claim import Claim, Floor, better, not_worse

HERE = Path(__file__).parent


def arm(name, value):
    def run(trial):
        with (HERE / "ran.txt").open("a") as file:
            file.write(f"{trial.seed} {name}\\n")
        if name == "ours" and (HERE / "began").exists():
            with (HERE / "began").open("w") as began:
                began.write("x")
                began.flush()
                (HERE / "never").open().read()
        return {"r1": value + trial.seed / 100, "other": 1.0}
    return run


claim = Claim(
    question="Is ours better?",
    seeds=(1, 2, 3),
    arms={"theirs": arm("theirs", 0.5), "ours": arm("ours", 0.6)},
    expect=(better("r1", "ours", over="theirs"), not_worse("other", "ours", than="theirs", margin=0.1)),
    floor=Floor("r1", chance=0.1),
)
'''


SHORT = """
from diptych.lab.claim import Claim, Floor, at_most

claim = Claim(question="?", seeds=(1, 2, 3), arms={"alone": lambda trial: {"r1": 0.5}},
              expect=(at_most("r1", "alone", 0.9),), floor=Floor("r1", chance=0.1))
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DIPTYCH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ours.py"
    path.write_text(FILE)
    return path


def test_a_claim_is_run_shown_and_stored(diptych, file, tmp_path):
    called = diptych("reproduce", file, "--out", tmp_path / "out", "--jobs", 3)
    assert called.code == 0, called
    for part in (
        "Is ours better?",
        "r1: ours above theirs",
        "other: ours not worse than theirs by 0.1",
        "0.62 ± 0.025",
        "verdict: holds; stored in",
        "seeds 1, 2, 3",
    ):
        assert part in called.out, part
    assert "6 of 6: " in called.err
    assert "ask for five seeds" in called.err
    stored = json.loads((tmp_path / "out" / "ours.json").read_text())
    assert stored["verdict"] == "holds"
    again = diptych("reproduce", file, "--out", tmp_path / "out", "--json")
    assert "all of it was done before; to run it anew, remove" in again.err
    assert json.loads(again.out) == {
        "ours": {**stored, "processes": json.loads(again.out)["ours"]["processes"]}
    }


def test_quick_says_that_it_gives_no_verdict(diptych, file):
    called = diptych("reproduce", file, "--quick")
    assert called.code == 0, called
    assert "no verdict: a quick run of seed 1 alone; nothing is stored" in called.out
    assert sorted(file.with_name("ran.txt").read_text().splitlines()) == ["1 ours", "1 theirs"]
    assert (
        json.loads(diptych("reproduce", file, "--quick", "--json").out)["ours"]["verdict"] is None
    )


def test_ties_tell_what_could_have_been_seen_and_untrained_what_was_missing(diptych, file):
    file.write_text(
        FILE.replace("value + trial.seed / 100", "value + (trial.seed % 2) * len(name) / 10")
    )
    reported = diptych("reproduce", file, "--seeds", "4,5").out
    assert (
        "verdict: tie (the smallest effect that this run could have seen: r1: ours above theirs: 1.27)"
        in reported
    )
    file.write_text(FILE.replace("chance=0.1", "chance=0.6"))
    reported = diptych("reproduce", file, "--seeds", "4,6").out
    assert (
        "verdict: untrained (r1 must reach 0.72; theirs reached 0.55, ours reached 0.65); nothing is stored"
        in reported
    )


def test_a_killed_run_leaves_no_process_and_goes_on(diptych, file, tmp_path):
    """Killed outright while the second arm of the first seed runs: the first arm is not run
    again."""
    for name in ("began", "never"):
        os.mkfifo(tmp_path / name)
    process = shell("reproduce", file, "--jobs", 1, cwd=tmp_path)
    with (tmp_path / "began").open() as began:
        assert began.read(1) == "x"
        process.kill()
        assert began.read() == ""  # comes when the arm's process, too, has ended
    finish(process)
    for name in ("began", "never"):
        (tmp_path / name).unlink()
    called = diptych("reproduce", file, "--jobs", 1)
    assert called.code == 0, called
    assert file.with_name("ran.txt").read_text().splitlines() == [
        "1 theirs",
        "1 ours",
        "1 ours",
        "2 theirs",
        "2 ours",
        "3 theirs",
        "3 ours",
    ]
    assert (tmp_path / "results" / "claims" / "ours.json").exists()


def test_an_interrupt_is_told_and_ends_the_arms(file, tmp_path):
    for name in ("began", "never"):
        os.mkfifo(tmp_path / name)
    process = shell("reproduce", file, "--jobs", 1, cwd=tmp_path)
    with (tmp_path / "began").open() as began:
        assert began.read(1) == "x"
        process.send_signal(signal.SIGINT)
        assert began.read() == ""
    called = finish(process)
    assert called.code == 130, called
    assert "stopped; what is finished is kept, and the same command goes on" in called.err
    assert "Traceback" not in called.err


def test_all_runs_what_is_stale_and_goes_on_after_a_refusal(diptych, file, tmp_path, monkeypatch):
    folder = tmp_path / "claims"
    folder.mkdir()
    monkeypatch.setattr(claim, "CLAIMS", folder)
    (folder / "bad.py").write_text(
        "from diptych.data.sources import open_source\n"
        + SHORT.replace('{"r1": 0.5}', 'open_source("flickr8k-1k")')
    )
    (folder / "good.py").write_text(SHORT)
    called = diptych("reproduce", "--all")
    assert called.code == 2, called
    assert "verdict: holds" in called.out
    assert "diptych: bad: flickr8k-1k does not ship; set DIPTYCH_DATA" in called.err
    (folder / "bad.py").unlink()
    called = diptych("reproduce", "--all")
    assert (called.code, called.out) == (0, "")
    assert "good: its result is of the claim as it stands" in called.err
    (folder / "good.py").write_text(SHORT + "# changed\n")
    assert "verdict: holds" in diptych("reproduce", "--all").out


def test_the_block_on_real_data_runs_where_that_is(diptych, file, tmp_path, monkeypatch):
    file.write_text(FILE + "real = claim\n")
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    found = json.loads(diptych("reproduce", file, "--quick", "--json").out)
    assert {name: record["block"] for name, record in found.items()} == {
        "ours": "claim",
        "ours.real": "real",
    }


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["takes the name of a claim, or --all"]),
        (["lion", "--all"], ["takes the name of a claim, or --all"]),
        (["contrastive_gpa"], ["unknown claim 'contrastive_gpa'"]),
        (["nowhere.py"], ["nowhere.py: there is no such file"]),
        (["ours.py", "--seeds", "1,x"], ["--seeds '1,x'", "whole numbers"]),
        (["ours.py", "--seeds", "1"], ["one seed gives no interval", "--quick"]),
        (["ours.py", "--jobs", "0"], ["--jobs is 0"]),
        (["ours.py", "--qiuck"], ["'--qiuck'", "did you mean '--quick'"]),
    ],
    ids=" ".join,
)
def test_bad_input_is_told_in_one_line(refused, file, words, parts):
    message = refused("reproduce", *words)
    for part in parts:
        assert part in message
