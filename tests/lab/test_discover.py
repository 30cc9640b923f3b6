"""The search for update rules: changes of programs, evolution, the funnel, and the command."""

import json
import math
from dataclasses import replace

import pytest
from tests.training.helpers import rule

from diptych.cli import main
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.lab.discover import select
from diptych.lab.discover.evolve import Measured, Settings, search
from diptych.lab.discover.ledger import Ledger, begin
from diptych.lab.discover.mutate import mutated, without
from diptych.lab.discover.select import Bench
from diptych.lab.discover.task import Task
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.programs.execute import check
from diptych.training.programs.known import adamw, lion
from diptych.training.programs.program import digest, parse, simplified


def silent(done, total):
    pass


def test_changes_follow_the_seed_and_can_train():
    start = adamw()
    found = [mutated(start, generator(0, number)) for number in range(9)]
    assert found == [mutated(start, generator(0, number)) for number in range(9)]
    assert len({digest(program) for program in found}) > 5
    for program in found:
        check(program)
        assert digest(program) != digest(start)
        assert abs(len(program.statements) - len(start.statements)) <= 1


def test_leaving_out_a_statement():
    program = rule("x = gradient * lr", "x = x + weight", "update = sign(x)", "weight = abs(x)")
    texts = {str(each) for each in without(program, 1)}
    lines = "x = gradient * lr", "update = sign(x)", "weight = abs(x)"
    assert str(rule(*lines)) in texts  # the earlier x, which is also the first argument
    assert str(rule(lines[0], "update = sign(weight)", "weight = abs(weight)")) in texts
    (rest,) = [each for each in without(program, 0) if each.statements[0].arguments[0] == "lr"]
    assert str(rest.statements[0]) == "x = lr + weight"
    returned = rule("update = gradient * lr")
    assert {each.outputs[0] for each in without(returned, 0)} == {"gradient", "lr"}


def count(program):
    return len(simplified(program).statements)


def by_length(runs):
    """A measure under which short programs are good; it notes what it runs."""

    def measure(program, bar):
        runs.append((digest(program), bar))
        return Measured(float(count(program)), float(count(program)) + 2)

    return measure


@pytest.mark.parametrize("kind", ["evolution", "random"])
def test_equal_programs_are_evaluated_once_and_counted_once(kind):
    runs: list = []
    found = search(
        adamw(),
        by_length(runs),
        Settings(kind=kind, evaluations=16, population=5, changes=3),
        silent,
    )
    hashes = [key for key, _ in runs]
    assert len(hashes) == len(set(hashes)) == len(found) == 16
    assert hashes[0] == digest(adamw())
    assert [member.loss for member in found] == sorted(member.loss for member in found)
    again: list = []
    search(
        adamw(),
        by_length(again),
        Settings(kind=kind, evaluations=16, population=5, changes=3),
        silent,
    )
    assert again == runs


def test_selection_finds_what_changes_alone_do_not():
    best = {}
    for kind in ("evolution", "random"):
        chosen = Settings(kind=kind, evaluations=50, population=6, sample=4, changes=4)
        best[kind] = search(adamw(), by_length([]), chosen, silent)[0].loss
    assert best["evolution"] < best["random"] - 2


def test_a_search_begins_anew_from_the_first_and_from_the_best():
    """With losses under which nothing is better than AdamW but one program."""
    runs: list = []
    special: list = []

    def measure(program, bar):
        runs.append(program)
        if len(runs) == 4:
            special.append(digest(program))
        return Measured(0.0 if digest(program) in special else 1.0 + (len(runs) > 1), 3.0)

    chosen = Settings(evaluations=30, population=3, sample=3, patience=6)
    found = search(adamw(), measure, chosen, silent)
    assert digest(found[0].program) == special[0]

    def distance(one, two):
        return len(set(str(one).splitlines()) ^ set(str(two).splitlines()))

    later = runs[10:]  # after the patience of six evaluations
    assert min(distance(program, simplified(adamw())) for program in later) <= 3
    assert any(distance(program, runs[3]) <= 3 for program in runs[17:])


def test_clearly_worse_candidates_meet_a_bar():
    """The bar is infinite at first, then above the early losses of the better half."""
    runs: list = []
    search(adamw(), by_length(runs), Settings(evaluations=30, population=4), silent)
    assert runs[0][1] == math.inf
    assert all(bar <= count(adamw()) + 2 + 1 + 1 for _, bar in runs[1:])
    stopped: list = []

    def measure(program, bar):
        early = float(count(program))
        stopped.append(early > bar)
        return Measured(math.inf if early > bar else early, early)

    found = search(adamw(), measure, Settings(evaluations=30, population=4), silent)
    assert sum(member.loss == math.inf for member in found) == sum(stopped) > 0


def test_the_grid_of_rates_is_widened_until_the_best_lies_inside():
    tried: list = []

    def far(rate):
        tried.append(rate)
        return abs(math.log(rate / 80))

    assert select.best_rate(select.GRID, far, silent) == 90.0
    assert max(tried) == 270.0
    tried.clear()
    assert select.best_rate(select.GRID, lambda rate: -rate, silent) == 810.0  # four more at most


class Fake:
    """A task whose loss is a function of program and seed."""

    def __init__(self, loss):
        self.loss = loss
        self.runs = 0

    def measure(self, text, seed, bar=math.inf):
        self.runs += 1
        return Measured(self.loss(parse(text), seed), 0.0)


def test_the_funnel_drops_what_wins_on_the_proxy_and_loses_above(tmp_path):
    programs = [rule(f"update = gradient * {value}") for value in map(float, range(1, 15))]
    value = lambda program: float(program.statements[0].arguments[1])  # noqa: E731
    tasks = {
        "proxy": Fake(lambda program, seed: value(program)),
        "3x1": Fake(lambda program, seed: -value(program) + seed),
        "9x1": Fake(lambda program, seed: abs(value(program) - 9)),
    }
    found = select.funnel(Bench(tasks, Ledger(tmp_path)), programs, silent)  # type: ignore[arg-type]
    assert len(found) == 10
    assert [at for at, losses in enumerate(found) if "9x1" in losses] == [7, 8, 9]
    assert found[8] == {"3x1": -9 + 1.5, "9x1": 0.0}
    assert tasks["3x1"].runs == 10 * len(select.SEEDS)


def test_adamw_is_tuned_on_each_larger_task(tmp_path):
    def rate_of(program):
        return {s.target: s for s in program.statements}["rate"].arguments[1]

    def near(best):
        return Fake(lambda program, seed: abs(rate_of(program) - best))

    tasks = {"proxy": near(2), "3x1": near(2), "9x1": near(6)}
    found = select.tuned(Bench(tasks, Ledger(tmp_path)), lambda r: adamw(rate=r), 2.0, silent)  # type: ignore[arg-type]
    assert found == {"3x1": 0.0, "9x1": 0.0}


def test_a_winner_loses_the_statements_that_do_not_matter(tmp_path):
    """The loss has a noise of 1 between seeds; without its sign the program is clearly worse."""
    program = rule(
        "idle = cos(weight)",
        "x = gradient * 1.01",
        "y = sign(x)",
        "y = y + state1",
        "update = y * lr",
    )

    def loss(each, seed):
        worse = 0.2 * ("mul" in each.functions and str(each).count(" * 1.01") == 0)
        needed = ("sign" not in each.functions) + ("lr" not in str(each).split(":")[1])
        return seed + worse + 5 * needed

    bench = Bench({"proxy": Fake(loss)}, Ledger(tmp_path))  # type: ignore[arg-type]
    found = select.shortened(bench, program, silent)
    assert str(found) == str(rule("y = sign(gradient)", "update = y * lr"))
    strict = Fake(lambda each, seed: 100 * seed - 90 * len(each.statements))
    bench = Bench({"proxy": Fake(loss), "3x1": strict}, bench.ledger)  # type: ignore[arg-type]
    assert select.shortened(bench, program, silent) == simplified(program)


def test_the_record_survives_a_torn_line_and_is_checked(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.measured("proxy", 0, lion(), lambda: Measured(math.inf, 2.0))
    ledger.measured("proxy", 1, lion(), lambda: Measured(1.0, 2.0))
    path = tmp_path / "runs.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"task": "pro')
    again = Ledger(tmp_path)
    never = lambda: pytest.fail("it is measured again")  # noqa: E731
    assert again.measured("proxy", 0, lion(), never) == Measured(math.inf, 2.0)
    assert again.measured("proxy", 1, lion(), never) == Measured(1.0, 2.0)
    assert path.read_text() == whole
    path.write_text(whole + "[]\n")
    with pytest.raises(InputError, match="line 3 is no run"):
        Ledger(tmp_path)


def test_settings_are_checked_when_a_search_is_resumed(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="holds no search"):
        begin(out, {"seed": 0, "evaluations": 5}, resume=True)
    begin(out, {"seed": 0, "evaluations": 5}, resume=False)
    with pytest.raises(InputError, match="go on with --resume"):
        begin(out, {"seed": 0, "evaluations": 5}, resume=False)
    begin(out, {"seed": 0, "evaluations": 9}, resume=True)
    with pytest.raises(InputError, match="another seed"):
        begin(out, {"seed": 1, "evaluations": 9}, resume=True)
    (out / "discover.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        begin(out, {"seed": 0, "evaluations": 9}, resume=True)


SCENES = "scenes:number=1:size=32:texts=caption:drop=0:seed=1"


def words(out):
    return [
        *("discover", "clip", "--data", f"{SCENES}:count=24"),
        *("--val", f"{SCENES}:split=test:count=12", "--steps", "4", "--batch-size", "12"),
        *("--image-tower", "conv:image_size=16:widths=(8,):depths=(1,):pooling=max"),
        *("--text-tower", "text:width=16:depth=1:heads=2", "--embed-dim", "8"),
        *("--tokenizer", "bpe:vocab_size=300:context=16", "--funnel", "2x1"),
        *("--population", "3", "--evaluations", "4", "--out", str(out)),
    ]


def test_the_command_writes_a_rule_that_trains_and_goes_on(tmp_path, capsys, monkeypatch):
    out = tmp_path / "rule"
    assert main([*words(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["program"] == "best.py"
    assert rows[-1]["program"] == "AdamW, tuned"
    assert all(set(row) == {"program", "statements", "proxy", "2x1", "text"} for row in rows)
    best = (out / "best.py").read_text()
    assert best.endswith(rows[0]["text"])
    assert simplified(parse(best)) == parse(best)
    seen = (out / "runs.jsonl").read_text()
    lines = seen.splitlines(keepends=True)
    (out / "runs.jsonl").write_text("".join(lines[:-4]))  # as it was stopped
    (out / "best.py").unlink()
    assert main([*words(out), "--resume"]) == 0
    assert "AdamW, tuned" in capsys.readouterr().out
    assert (out / "best.py").read_text() == best

    def key(line):
        return {name: value for name, value in json.loads(line).items() if name != "seconds"}

    assert list(map(key, (out / "runs.jsonl").read_text().splitlines())) == list(map(key, lines))
    monkeypatch.setattr(Task, "measure", lambda *a: pytest.fail("a finished search ran again"))
    assert main([*words(out), "--resume"]) == 0


def task(**recipe):
    config = resolve(
        "clip",
        {"train": f"{SCENES}:count=24"},
        image_tower="conv:image_size=16:widths=(8,):depths=(1,):pooling=max",
        text_tower="text:width=16:depth=1:heads=2",
        embed_dim=8,
        tokenizer="bpe:vocab_size=300:context=16",
        recipe={"steps": 8, "batch_size": 12, "ema": None, "weight_decay": 0.1, **recipe},
        options={"quiet": True},
    )
    return Task(config, open_source(config.data["train"]), open_source(f"{SCENES}:count=12"))


def test_a_task_measures_the_librarys_adamw_and_its_program_alike():
    proxy = task()
    recipe = proxy.config.recipe
    program = str(adamw(recipe.betas, recipe.eps))
    found = proxy.measure(program, 0)
    library = proxy.measure("adamw", 0)
    assert (library.loss, library.early) == pytest.approx((found.loss, found.early), rel=1e-5)
    assert found != proxy.measure(program, 1)
    assert found.loss < found.early < 3
    larger = proxy.another(replace(proxy.config, recipe=replace(recipe, steps=12)), proxy.held)
    assert larger.measure(program, 0).loss < found.loss
    assert proxy.measure(program, 0, bar=found.early) == found
    stopped = proxy.measure(program, 0, bar=found.early - 1e-6)
    assert stopped == Measured(math.inf, found.early)
    diverging = rule("update = weight * -1e10")
    assert proxy.measure(str(diverging), 0).loss == math.inf
