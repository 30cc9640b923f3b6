"""Running a claim: what is stored, what is refused, what is not done twice."""

import json
import shutil
import subprocess

import pytest

from diptych.errors import InputError
from diptych.lab.claim import CONVERGENCE, SEEDS
from diptych.lab.plan import plan
from diptych.lab.reproduce import board, reproduce
from diptych.lab.stored import (
    EARLIER,
    LEDGER,
    blocks,
    is_stale,
    read_result,
    result_path,
    results_folder,
    since,
)

FILE = """
from pathlib import Path

from diptych.lab.claim import Claim, Floor, Tuned, at_most, better

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
        note(trial, name if trial.stretch == 1 else f"{name} x {trial.stretch}")
        assert trial.prelude["seed"] == trial.seed
        assert (trial.prelude["folder"] / "left").read_text() == "x"
        trial.log("under way")
        own = gain + (trial.seed % 7) / 1000 * (name == "ours")
        return {"r1": 0.5 + own + trial.seed / 10000, "quick": trial.quick}
    return run


def two(trial):
    note(trial, "theirs+broken")
    return {name: {"r1": 0.5 + trial.seed / 10000} for name in ("theirs", "broken")}


claim = Claim(
    question="Is more more?",
    arms={("theirs", "broken"): two, "ours": arm("ours", 0.1)},
    prelude=prelude,
    headline=(better("r1", "ours", over="theirs"),),
    mechanism=("broken",),
    checks=(at_most("r1", "ours", 0.9),),
    delta=0.01,
    looks=(5, 10),
    floor=Floor("r1", chance=0.1),
    steps=False,
    tuned=Tuned(effect=0.1, sd=0.01, best=0.6, chance=0.1, seconds=1),
)
"""


SMALL = """
from diptych.lab.claim import Claim, Floor, Tuned, at_most

claim = Claim(question="?", arms={"alone": lambda trial: {"r1": 0.5 + trial.seed / 1e4}},
              headline=(at_most("r1", "alone", 0.9),), floor=Floor("r1", chance=0.1), steps=False,
              tuned=Tuned(effect=0.5, sd=0.01, best=0.5, seconds=1))
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


FIRST = SEEDS[:5]
JOBS = ("prelude", "theirs+broken", "ours")


def git(folder, *words):
    words = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", folder, *words]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def test_a_look_is_run_judged_and_stored(file, tmp_path):
    out = tmp_path / "out"
    assert is_stale(file, out=out)
    todo = plan("more", out=out, folder=file.parent)
    assert (todo.seeds, todo.out) == (FIRST, out / "more.json")
    events = []
    record = reproduce(
        todo, at_once=3, hear=lambda event, job, value: events.append((event, str(job)))
    )
    assert ran(file) == sorted(f"{seed} {job}" for seed in FIRST for job in JOBS)
    assert ("begun", "more seed 200 (prelude)") in events
    assert ("said", "more seed 202 ours") in events
    stored = json.loads((out / "more.json").read_text())
    assert stored == record == read_result(out / "more.json")
    assert not is_stale(file, out=out)

    assert (record["verdict"], record["claim"], record["question"]) == (
        "holds",
        "more",
        "Is more more?",
    )
    assert (record["mechanism"]["outcome"], record["open_look"]) == ("shown", None)
    assert [(run["seed"], run["arm"]) for run in record["runs"]] == [
        (seed, arm) for seed in FIRST for arm in ("theirs", "broken", "ours")
    ]
    assert record["runs"][2]["metrics"] == {"r1": pytest.approx(0.62 + 4 / 1000), "quick": 0.0}
    assert len(record["preludes"]) == 5
    assert record["cpu_seconds"] == pytest.approx(
        sum(cost["cpu_seconds"] for cost in record["runs"] + record["preludes"]), abs=0.1
    )
    assert record["file"]["commit"] is None
    assert "outside" in record["file"]["note"]
    assert record["versions"]["torch"]
    assert "files.py" in record["files"]
    assert since(record, file) == ([], [])
    left = [path.name for path in todo.shelf.rglob("*") if path.is_file()]
    assert sorted(set(left)) == ["arm-ours.json", "arm-theirs+broken.json", "prelude.json"]
    [line] = (out / LEDGER).read_text().splitlines()
    assert json.loads(line)["seeds"] == list(FIRST)

    again = reproduce(plan("more", out=out, folder=file.parent))
    assert (ran(file), again) == ([], record)  # decided: no look is due
    assert len((out / LEDGER).read_text().splitlines()) == 1


NOISY = FILE.replace("own = gain + ", "own = (-1) ** trial.seed / 5 + ")


def test_the_next_look_takes_earlier_seeds_from_the_record(file, tmp_path):
    out = tmp_path / "out"
    file.write_text(NOISY)
    first = reproduce(plan("more", out=out, folder=file.parent))
    assert (first["verdict"], first["open_look"]) == ("undecided", 10)
    assert is_stale(file, out=out)
    ran(file)
    todo = plan("more", out=out, folder=file.parent)
    shutil.rmtree(todo.shelf)  # as on another machine
    second = reproduce(todo)
    assert ran(file) == sorted(f"{seed} {job}" for seed in SEEDS[5:10] for job in JOBS)
    assert second["runs"][:15] == first["runs"]
    assert (second["seeds"], second["open_look"]) == (list(SEEDS[:10]), None)
    assert second["verdict"] == "undecided"
    assert not is_stale(file, out=out)
    assert len((out / LEDGER).read_text().splitlines()) == 2


def test_a_look_needs_the_code_of_the_one_before(file, tmp_path):
    out = tmp_path / "out"
    file.write_text(NOISY)
    record = reproduce(plan("more", out=out, folder=file.parent))
    changed = {**record, "files": {**record["files"], "files.py": "other"}}
    (out / "more.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match=r"files.py has changed since the last one: run it in a"):
        plan("more", out=out, folder=file.parent)
    own = {**record, "files": {**record["files"], "methods/adapt/more.py": "other"}}
    (out / "more.json").write_text(json.dumps(own))
    assert since(own, file) == (["methods/adapt/more.py"], [])
    assert (
        plan("more", out=out, folder=file.parent).new == FIRST
    )  # another experiment: from the start
    (out / "more.json").write_text(json.dumps(record))
    file.write_text(NOISY + "\nreal = claim\n")  # the block that was judged is as it was
    assert since(record, file) == ([], [])
    assert plan("more", out=out, folder=file.parent).new == SEEDS[5:10]
    file.write_text(NOISY.replace("/ 5", "/ 6"))
    assert since(record, file) == (["more.py"], [])
    (out / "more.json").write_text(json.dumps({**record, "format": EARLIER}))
    assert is_stale(file, out=out)
    assert plan("more", out=out, folder=file.parent).new == FIRST


def test_convergence_is_tested_at_the_first_look(file, tmp_path):
    file.write_text(FILE.replace("steps=False", "steps=True"))
    record = reproduce(plan("more", out=tmp_path, folder=file.parent))
    lines = ran(file)
    assert [line for line in lines if line.startswith("100")] == sorted(
        ["100 ours", "100 ours x 2", "100 prelude", *["100 theirs+broken"] * 2]
    )
    assert record["moved"] == [{"says": "r1: ours above theirs", "by": [0.0, 0.0, 0.0]}]
    assert {run["seed"] for run in record["twice"]} == set(CONVERGENCE)
    assert record["verdict"] == "holds"


def test_more_steps_that_change_the_answer_make_it_untrained(file, tmp_path):
    moves = FILE.replace("own = gain + ", "own = gain + 0.05 * (trial.stretch - 1) + ")
    file.write_text(moves.replace("steps=False", "steps=True"))
    record = reproduce(plan("more", out=tmp_path, folder=file.parent))
    assert (record["verdict"], record["open_look"]) == ("untrained", None)
    assert record["reasons"] == [
        "r1: ours above theirs: at twice the steps the difference moves by +0.05, +0.05, +0.05"
    ]


def test_items_are_paired_and_their_variance_stored(file, tmp_path):
    items = SMALL.replace(
        'arms={"alone": lambda trial: {"r1": 0.5 + trial.seed / 1e4}}',
        'arms={"a": lambda trial: {"r1": [1, 1, 0, 1]}, "b": lambda trial: {"r1": [1, 0, 0, 1]}}',
    )
    items = (
        items.replace(
            'headline=(at_most("r1", "alone", 0.9),)',
            'headline=(better("r1", "a", over="b"),), delta=0.01',
        )
        .replace("at_most\n", "better\n")
        .replace("best=0.5", "best=0.75")
    )
    file.write_text(items)
    record = reproduce(plan("more", out=tmp_path, folder=file.parent))
    assert record["runs"][0]["metrics"] == {"r1": 0.75}
    assert record["pairs"]["200"] == {"r1: a above b": [4, 0.25]}
    low, high = record["headline"][0]["interval"]
    assert high - low == pytest.approx(2 * 2.776 * (0.25 / 20) ** 0.5, rel=1e-3)
    file.write_text(items.replace("[1, 0, 0, 1]", "[1, 0, 0]"))
    with pytest.raises(InputError, match="a returned 4 items and b 3, seed 200"):
        reproduce(plan("more", out=tmp_path / "other", folder=file.parent))


def test_a_metric_that_is_missing_is_found_on_the_first_arm(file, tmp_path):
    file.write_text(FILE.replace('return {name: {"r1"', 'return {name: {"r2"'))
    with pytest.raises(
        InputError, match=r"arm 'theirs' of more, seed 200, 'r1'; did you mean 'r2'"
    ):
        reproduce(plan("more", out=tmp_path, folder=file.parent), at_once=1)
    assert ran(file) == ["200 prelude", "200 theirs+broken"]


def test_quick_is_one_seed_and_no_verdict_and_other_seeds_store_nothing(file, tmp_path):
    out = tmp_path / "out"
    todo = plan(str(file), quick=True, out=out)
    assert not board(todo)[0].full
    record = reproduce(todo)
    assert board(todo)[0].full
    assert ran(file) == ["100 ours", "100 prelude", "100 theirs+broken"]
    assert (record["verdict"], record["quick"], record["seeds"]) == (None, True, [100])
    assert record["runs"][2]["metrics"]["quick"] == 1.0
    assert record["arms"]["ours"]["r1"] == {"mean": pytest.approx(0.612), "interval": None}
    assert "headline" not in record
    tried = plan(str(file), seeds=(100, 101), out=out)
    assert (tried.out, reproduce(tried)["verdict"]) == (None, "holds")
    for seeds, message in (
        ((100,), "one seed gives no interval"),
        ((100, 101, 100), "name one twice"),
        ((100, 200), "the seeds 200 to 209 are those of stored looks"),
    ):
        with pytest.raises(InputError, match=message):
            plan(str(file), seeds=seeds)
    assert not out.exists()


def test_without_numbers_of_tuning_seeds_nothing_is_stored(file):
    file.write_text(
        FILE.replace("    tuned=Tuned(effect=0.1, sd=0.01, best=0.6, chance=0.1, seconds=1),\n", "")
    )
    with pytest.raises(InputError, match=r"`tuned` is missing; try .*--seeds 100,101,102,103"):
        plan(str(file))
    assert plan(str(file), seeds=(100, 101)).out is None


def test_a_tree_with_uncommitted_changes_is_not_judged(file):
    git(file.parent, "init", "-q")
    with pytest.raises(
        InputError, match="more.py has uncommitted changes, and what is expected is fixed before"
    ):
        plan(str(file))
    assert plan(str(file), quick=True).out is None
    assert plan(str(file), seeds=(10, 11)).out is None
    git(file.parent, "add", "more.py")
    git(file.parent, "commit", "-qm", "what is expected")
    (file.parent / "results").mkdir()
    (file.parent / "results" / "x.json").write_text("{}")
    (file.parent / "notes.txt").write_text("no code")
    assert plan(str(file)).out is not None
    (file.parent / "helper.py").write_text("")
    with pytest.raises(InputError, match="helper.py has uncommitted changes"):
        plan(str(file))
    git(file.parent, "add", "helper.py")
    git(file.parent, "commit", "-qm", "helper")
    file.write_text(FILE.replace("0.9", "0.95"))
    with pytest.raises(InputError, match="more.py has uncommitted changes"):
        plan(str(file))
    assert is_stale(file)


def test_the_record_names_commit_and_tree(file, tmp_path):
    def amend(event, job, value):
        if event == "begun":
            git(file.parent, "commit", "--amend", "--quiet", "--message", f"amended at {job}")

    file.write_text(SMALL)
    git(file.parent, "init", "-q")
    git(file.parent, "add", "more.py")
    git(file.parent, "commit", "-qm", "what is expected")
    first = git(file.parent, "rev-parse", "HEAD")
    record = reproduce(plan(str(file), out=tmp_path / "out"), hear=amend)
    assert (
        record["file"]["commit"] == record["head"] == git(file.parent, "rev-parse", "HEAD") != first
    )
    assert record["file"]["file"] == "more.py"
    assert record["file"]["blob"] == git(file.parent, "rev-parse", "HEAD:more.py")
    assert "note" not in record["file"]
    assert not is_stale(file, out=tmp_path / "out")


def test_a_file_that_changes_while_it_runs_is_not_stored(file, tmp_path):
    def change(event, job, value):
        if event == "begun":
            file.write_text(FILE + "# looked\n")

    todo = plan(str(file), out=tmp_path / "out")
    with pytest.raises(InputError, match="more.py was changed while it ran; nothing is stored"):
        reproduce(todo, at_once=1, hear=change)
    assert not (tmp_path / "out" / "more.json").exists()


def test_what_other_code_has_done_is_done_again(file, tmp_path):
    todo = plan(str(file), quick=True)
    reproduce(todo)
    ran(file)
    changes = [  # a prelude is run again only where an arm needs it, whose own code has not changed
        (["seed-100/arm-ours.json"], ["100 ours", "100 prelude"]),
        (["seed-100/prelude.json"], []),
        (["seed-100/prelude.json", "seed-100/arm-ours.json"], ["100 ours", "100 prelude"]),
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


METHOD_OF_FILE = """
from pathlib import Path

from diptych.files import run_module
from diptych.lab.claim import Claim, Floor, Tuned, at_most

METHOD = Path(__file__).parents[1] / "elsewhere" / "hinge.py"


def arm(trial):
    return {"r1": run_module(METHOD, "diptych_method_hinge").SCORE + trial.seed / 1e4}


claim = Claim(question="?", arms={"alone": arm}, headline=(at_most("r1", "alone", 0.9),), looks=(5,),
              floor=Floor("r1", chance=0.1), steps=False, tuned=Tuned(effect=0.5, sd=0.01, best=0.5, seconds=1))
"""


def test_a_method_given_as_a_file_counts_by_its_content(file, tmp_path):
    file.write_text(METHOD_OF_FILE)
    method = tmp_path / "elsewhere" / "hinge.py"
    method.parent.mkdir()
    method.write_text("SCORE = 0.5\n")
    out = tmp_path / "out"
    record = reproduce(plan(str(file), out=out), at_once=2)
    assert "./hinge.py" in record["files"]
    assert "elsewhere" not in (out / "more.json").read_text()
    assert not plan(str(file), out=out).new
    trial = plan(str(file), quick=True)
    reproduce(trial)
    assert board(trial)[0].full

    method.write_text("SCORE = 0.6\n")
    assert not board(trial)[0].full
    assert reproduce(trial)["runs"][0]["metrics"]["r1"] == pytest.approx(0.61)
    assert since(record, file)[0] == ["./hinge.py"]
    assert plan(str(file), out=out).new == FIRST


def test_code_that_changes_while_it_runs_is_told(file):
    todo = plan(str(file), quick=True)

    def change(event, job, value):
        if str(job) == "more seed 100 ours" and event == "done":
            path = todo.shelf / "seed-100" / "arm-ours.json"
            path.write_text(path.read_text().replace('"files.py": "', '"files.py": "other'))

    with pytest.raises(
        InputError, match="files.py changed while more ran, so nothing is stored; start again"
    ):
        reproduce(todo, hear=change)
    ran(file)
    assert reproduce(todo)["verdict"] is None
    assert ran(file) == ["100 ours"]


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
            'return {"r1": 0.5 + own',
            'return {"loss": float("nan"), "r1": 0.5 + own',
            "arm 'ours' of more, seed 100 gave loss = nan",
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
