"""Running a claim: what is stored, what is refused, what is not done twice."""

import json
import subprocess

import pytest

from diptych.errors import InputError
from diptych.lab.reproduce import board, few_seeds, plan, reproduce
from diptych.lab.stored import blocks, is_stale, read_result, result_path, results_folder

FILE = """
from pathlib import Path

from diptych.lab.claim import Claim, Floor, at_most, better

HERE = Path(__file__).parent


def note(trial, what):
    assert not [*trial.folder.iterdir()]
    (trial.folder / "left").write_text("x")
    with (HERE / "ran.txt").open("a") as file:
        file.write(f"{trial.seed} {what}\\n")


def prelude(trial):
    note(trial, "prelude")
    return {"folder": trial.folder, "seed": trial.seed}


def arm(name, gain):
    def run(trial):
        note(trial, name)
        assert trial.prelude["seed"] == trial.seed
        assert (trial.prelude["folder"] / "left").read_text() == "x"
        trial.log("under way")
        return {"r1": 0.5 + gain + trial.seed / 100, "quick": trial.quick}
    return run


claim = Claim(
    question="Is more more?",
    seeds=(1, 2, 3),
    arms={"theirs": arm("theirs", 0.0), "ours": arm("ours", 0.1), "broken": arm("broken", 0.0)},
    prelude=prelude,
    expect=(better("r1", "ours", over="theirs", breaking=("broken",)), at_most("r1", "ours", 0.9)),
    floor=Floor("r1", chance=0.1),
)
"""


SMALL = """
from diptych.lab.claim import Claim, Floor, at_most

claim = Claim(question="?", seeds=(1, 2, 3), arms={"alone": lambda trial: {"r1": 0.5}},
              expect=(at_most("r1", "alone", 0.9),), floor=Floor("r1", chance=0.1))
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A claim outside any checkout, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "claims").mkdir()
    path = tmp_path / "claims" / "more.py"
    path.write_text(FILE)
    return path


def ran(file):
    lines = (
        file.with_name("ran.txt").read_text().splitlines()
        if file.with_name("ran.txt").exists()
        else []
    )
    file.with_name("ran.txt").unlink(missing_ok=True)
    return sorted(lines)


def test_a_claim_is_run_judged_and_stored_and_more_seeds_add_to_it(file, tmp_path):
    out = tmp_path / "out"
    assert is_stale(file, out=out)
    todo = plan("more", out=out, folder=file.parent)
    assert (todo.seeds, todo.out) == ((1, 2, 3), out / "more.json")
    events = []
    record = reproduce(
        todo, at_once=3, hear=lambda event, job, value: events.append((event, str(job)))
    )
    assert ran(file) == sorted(
        f"{seed} {arm}" for seed in (1, 2, 3) for arm in ("prelude", "theirs", "ours", "broken")
    )
    assert ("begun", "more seed 1 (prelude)") in events
    assert ("said", "more seed 3 ours") in events
    stored = json.loads((out / "more.json").read_text())
    assert stored == record == read_result(out / "more.json")
    assert not is_stale(file, out=out)

    assert (record["verdict"], record["claim"], record["question"]) == (
        "holds",
        "more",
        "Is more more?",
    )
    assert [(run["seed"], run["arm"]) for run in record["runs"]] == [
        (seed, arm) for seed in (1, 2, 3) for arm in ("theirs", "ours", "broken")
    ]
    assert record["runs"][1]["metrics"] == {"r1": 0.61, "quick": 0.0}
    assert record["arms"]["ours"]["r1"]["mean"] == pytest.approx(0.62)
    assert len(record["preludes"]) == 3
    assert record["cpu_seconds"] == pytest.approx(
        sum(cost["cpu_seconds"] for cost in record["runs"] + record["preludes"]), abs=0.1
    )
    assert record["file"]["commit"] is None
    assert "outside" in record["file"]["note"]
    assert record["versions"]["torch"]
    assert few_seeds(record)
    left = [path.name for path in todo.shelf.rglob("*") if path.is_file()]
    assert sorted(set(left)) == [
        "arm-broken.json",
        "arm-ours.json",
        "arm-theirs.json",
        "prelude.json",
    ]

    again = reproduce(plan("more", seeds=(1, 2, 3, 4), out=out, folder=file.parent))
    assert ran(file) == ["4 broken", "4 ours", "4 prelude", "4 theirs"]
    assert read_result(out / "more.json") == again
    assert (again["seeds"], again["seeds_of_claim"]) == ([1, 2, 3, 4], [1, 2, 3])


def test_quick_is_one_seed_and_no_verdict_and_other_seeds_store_nothing(file, tmp_path):
    out = tmp_path / "out"
    todo = plan(str(file), quick=True, out=out)
    assert not board(todo)[0].full
    record = reproduce(todo)
    assert board(todo)[0].full
    assert ran(file) == ["1 broken", "1 ours", "1 prelude", "1 theirs"]
    assert (record["verdict"], record["quick"], record["seeds"]) == (None, True, [1])
    assert record["runs"][0]["metrics"]["quick"] == 1.0
    assert record["arms"]["ours"]["r1"] == {"mean": pytest.approx(0.61), "interval": None}
    assert "expect" not in record
    assert (
        plan(str(file), seeds=(1, 2), out=out).out is None
    )  # without 3, its own: judged, not stored
    assert plan(str(file), seeds=(7, 3, 2, 1), out=out).out == out / "more.json"
    for seeds, message in (((1,), "one seed gives no interval"), ((1, 2, 1), "name one twice")):
        with pytest.raises(InputError, match=message):
            plan(str(file), seeds=seeds)
    assert not out.exists()


def test_a_file_with_uncommitted_changes_is_not_judged_on_its_own_seeds(file):
    def git(*words):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", file.parent, *words],
            check=True,
        )

    git("init", "-q")
    for seeds in (None, (1, 2, 3, 4), (3, 4)):
        with pytest.raises(
            InputError,
            match="more.py has uncommitted changes, and what is expected is fixed before",
        ):
            plan(str(file), seeds=seeds)
    assert plan(str(file), quick=True).out is None
    assert plan(str(file), seeds=(10, 11)).out is None
    git("add", "more.py")
    git("commit", "-qm", "what is expected")
    assert plan(str(file)).out is not None
    file.write_text(FILE.replace("0.9", "0.95"))
    with pytest.raises(InputError, match="uncommitted changes"):
        plan(str(file))
    assert is_stale(file)


def test_the_record_names_the_commit_of_the_file(file, tmp_path):
    def git(*words):
        words = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", file.parent, *words]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    def amend(event, job, value):
        if event == "begun":
            git("commit", "--amend", "--quiet", "--message", f"amended at {job}")

    file.write_text(SMALL)
    git("init", "-q")
    git("add", "more.py")
    git("commit", "-qm", "what is expected")
    first = git("rev-parse", "HEAD")
    record = reproduce(plan(str(file), out=tmp_path / "out"), hear=amend)
    assert record["file"]["commit"] == git("rev-parse", "HEAD") != first
    assert record["file"]["file"] == "more.py"
    assert record["file"]["blob"] == git("rev-parse", "HEAD:more.py")
    assert "note" not in record["file"]
    assert not is_stale(file, out=tmp_path / "out")


def test_a_file_that_changes_while_it_runs_is_not_stored(file, tmp_path):
    def change(event, job, value):
        if event == "begun":
            file.write_text(FILE + "# looked\n")

    todo = plan(str(file), out=tmp_path / "out")
    with pytest.raises(InputError, match="more.py was changed while it ran; nothing is stored"):
        reproduce(todo, at_once=1, hear=change)
    assert not (tmp_path / "out").exists()


def test_what_other_code_has_done_is_done_again(file, tmp_path):
    todo = plan(str(file), quick=True)
    reproduce(todo)
    ran(file)
    changes = [  # a prelude is run again only where an arm needs it, whose own code has not changed
        (["seed-1/arm-ours.json"], ["1 ours", "1 prelude"]),
        (["seed-1/prelude.json"], []),
        (["seed-1/prelude.json", "seed-1/arm-ours.json"], ["1 ours", "1 prelude"]),
    ]
    for names, arms in changes:
        for name in names:
            done = json.loads((todo.shelf / name).read_text())
            assert "files.py" in done["used"]
            done["used"]["files.py"] = "what it was before"
            (todo.shelf / name).write_text(json.dumps(done))
        assert board(todo)[0].full is (not arms)
        reproduce(todo)
        assert ran(file) == arms


def test_code_that_changes_while_it_runs_is_told(file):
    todo = plan(str(file), quick=True)

    def change(event, job, value):
        if str(job) == "more seed 1 ours" and event == "done":
            path = todo.shelf / "seed-1" / "arm-ours.json"
            path.write_text(path.read_text().replace('"files.py": "', '"files.py": "other'))

    with pytest.raises(
        InputError, match="files.py changed while more ran, so nothing is stored; start again"
    ):
        reproduce(todo, hear=change)
    ran(file)
    assert reproduce(todo)["verdict"] is None
    assert ran(file) == ["1 ours"]


def test_another_file_and_a_quick_run_share_nothing_with_what_was_done(file):
    shelves = [plan(str(file), quick=quick).shelf for quick in (True, False)]
    assert shelves == [plan(str(file), quick=quick, seeds=(8, 9)).shelf for quick in (True, False)]
    file.write_text(FILE.replace("0.9", "0.95"))
    shelves.append(plan(str(file)).shelf)
    assert len(set(shelves)) == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'return {"r1": 0.5',
            'return {"loss": float("nan"), "r1": 0.5',
            "arm 'theirs' of more, seed 1 gave loss = nan",
        ),
        (
            'note(trial, "prelude")',
            'open_source("flickr8k-1k:split=test")',
            "does not ship; set DIPTYCH_DATA",
        ),
    ],
)
def test_numbers_that_are_none_and_data_that_is_missing_are_told(
    file, monkeypatch, old, new, message
):
    monkeypatch.delenv("DIPTYCH_DATA", raising=False)
    file.write_text("from diptych.data.sources import open_source\n" + FILE.replace(old, new))
    with pytest.raises(InputError, match=message):
        reproduce(plan(str(file), quick=True), at_once=1)


def test_one_run_of_a_claim_at_a_time(file):
    todo = plan(str(file), quick=True)

    def twice(event, job, value):
        with pytest.raises(InputError, match="more is being reproduced by another process"):
            reproduce(todo)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(todo, hear=twice)


def test_the_second_block_is_for_real_data_and_stored_apart(file, tmp_path, monkeypatch):
    monkeypatch.delenv("DIPTYCH_DATA", raising=False)
    file.write_text(FILE + "real = claim\n")
    assert blocks(file) == ("claim",)
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    assert blocks(file) == ("claim", "real")
    assert plan(str(file), block="real", out=tmp_path).out == tmp_path / "more.real.json"
    file.write_text(FILE)
    assert blocks(file) == ("claim",)


def test_results_lie_in_the_checkout_that_we_are_in(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    assert results_folder() == tmp_path / "results" / "claims"
    assert result_path("lion", "real", tmp_path) == tmp_path / "lion.real.json"
    (tmp_path / "lion.json").write_text('{"format": "something"}')
    with pytest.raises(InputError, match="is not a result of diptych reproduce"):
        read_result(tmp_path / "lion.json")
