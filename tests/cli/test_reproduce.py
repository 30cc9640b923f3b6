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

from diptych.lab.claim import Claim, Floor, Tuned, better, not_worse

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
        own = trial.seed % 7 / 1000 * (name == "ours")
        return {"r1": value + trial.seed / 1e4 + own, "other": 1.0 + own}
    return run


claim = Claim(
    question="Ours is better.",
    arms={"theirs": arm("theirs", 0.5), "ours": arm("ours", 0.6)},
    headline=(better("r1", "ours", over="theirs"),),
    checks=(not_worse("other", "ours", than="theirs", margin=0.1),),
    delta=0.01,
    floor=Floor("r1", chance=0.1),
    steps=False,
    tuned=Tuned(effect=0.1, sd=0.1, best=0.6, chance=0.1, seconds=120),
)
'''


SHORT = """
from diptych.lab.claim import Claim, Floor, Tuned, at_most

claim = Claim(question="?", arms={"alone": lambda trial: {"r1": 0.5}}, steps=False,
              headline=(at_most("r1", "alone", 0.9, exact=True),), floor=Floor("r1", chance=0.1),
              tuned=Tuned(effect=0.5, sd=0.01, best=0.5, seconds=1))
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
        "Ours is better.",
        "r1: ours above theirs",
        "other: ours not worse than theirs by 0.1",
        "holds after 5 seeds; stored in",
        "seeds 200, 201, 202, 203, 204",
    ):
        assert part in called.out, part
    assert "10 of 10: " in called.err
    stored = json.loads((tmp_path / "out" / "ours.json").read_text())
    assert stored["verdict"] == "holds"
    again = diptych("reproduce", file, "--out", tmp_path / "out", "--json")
    assert "its result is of the claim and its method as they are" in again.err
    assert json.loads(again.out) == {"ours": stored}


def test_quick_says_that_it_gives_no_verdict(diptych, file):
    called = diptych("reproduce", file, "--quick")
    assert called.code == 0, called
    assert "no verdict: a quick run of seed 100 alone; nothing is stored" in called.out
    assert sorted(file.with_name("ran.txt").read_text().splitlines()) == ["100 ours", "100 theirs"]
    assert (
        json.loads(diptych("reproduce", file, "--quick", "--json").out)["ours"]["verdict"] is None
    )


def test_power_says_what_the_claim_could_see_and_runs_nothing(diptych, file):
    called = diptych("reproduce", file, "--power")
    assert called.code == 0, called
    assert "holds by then" in called.out
    assert not file.with_name("ran.txt").exists()
    found = json.loads(diptych("reproduce", file, "--power", "--json").out)["ours"]
    [look] = found["looks"]
    assert (look["seeds"], look["cpu_minutes"]) == (5, 10)
    assert look["power"] == pytest.approx(0.4, abs=0.02)  # an effect of one standard deviation
    assert look["smallest_effect"] == pytest.approx(0.168, abs=0.001)
    assert found["expected_seeds"] == 5


def test_open_and_untrained_results_say_what_is_missing(diptych, file):
    file.write_text(FILE.replace("(name ==", "(-1) ** trial.seed * 50 * (name =="))
    reported = diptych("reproduce", file, "--seeds", "100,101,102").out
    assert "undecided after 3 seeds; " in reported
    file.write_text(FILE.replace("chance=0.1),", "chance=0.6),"))
    reported = diptych("reproduce", file, "--seeds", "104,106").out
    assert "untrained after 2 seeds (theirs is under the floor of 0.72 in 2 of 2 seeds" in reported
    assert "nothing is stored" in reported


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
    rest = [f"{seed} {arm}" for seed in range(201, 205) for arm in ("theirs", "ours")]
    lines = file.with_name("ran.txt").read_text().splitlines()
    assert lines == ["200 theirs", "200 ours", "200 ours", *rest]
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
    assert "holds after 5 seeds" in called.out
    assert "diptych: bad: flickr8k-1k does not ship; set DIPTYCH_DATA" in called.err
    (folder / "bad.py").unlink()
    called = diptych("reproduce", "--all")
    assert (called.code, called.out) == (0, "")
    assert "good: its result is of the claim and its method as they are" in called.err
    (folder / "good.py").write_text(SHORT + "# a remark is no other claim\n")
    assert diptych("reproduce", "--all").out == ""
    (folder / "good.py").write_text(SHORT.replace('{"r1": 0.5}', '{"r1": 0.4}'))
    assert "holds after 5 seeds" in diptych("reproduce", "--all").out


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
