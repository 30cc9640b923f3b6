"""--guard: training ends before the model forgets what it could do, with the weights of when it
still could."""

import json

import pytest

from diptych.evaluation import evaluate
from diptych.methods.store import load

OLD = "scenes:number=1:styles=seen:seed=7:split=val:count=60:texts=caption"
NEW = "scenes:number=1:styles=neon:seed=8:count=32:texts=caption:objects=cat+bus"
# Rates far too high, so that all else is lost within a few steps.
HARD = ("--lr", "0.003", "--steps", "12", "--batch-size", "16", "--method.label", "object", "--method.decay", "1",
        "--seed", "0", "--quiet")  # fmt: skip


def score(run):
    from diptych.data.sources import open_source

    return evaluate(load(run), open_source(OLD), ["zeroshot"])["zeroshot"]["top1"]


@pytest.fixture(scope="module")
def start():
    return score("tiny")


def test_training_ends_before_the_model_forgets(start, diptych, tmp_path):
    free = diptych(
        "train", "fine_tune", "--init", "tiny", "--data", NEW, "--out", tmp_path / "free", *HARD
    )
    assert free.code == 0, free.err
    assert score(tmp_path / "free") < start - 0.3
    kept = diptych(
        "train",
        "fine_tune",
        "--init",
        "tiny",
        "--data",
        NEW,
        "--out",
        tmp_path / "kept",
        *HARD,
        "--guard",
        OLD,
        "--forget",
        "0.05",
    )
    assert kept.code == 0, kept.err
    assert "the guard's score fell from" in kept.err
    looks = [
        json.loads(line) for line in (tmp_path / "kept" / "metrics.jsonl").read_text().splitlines()
    ]
    looks = [line for line in looks if line.get("event") == "guard"]
    assert [bool(line.get("lost")) for line in looks] == [False] * (len(looks) - 1) + [True]
    assert (
        looks[-1]["score"] < looks[0]["score"] - 0.05 <= min(line["score"] for line in looks[:-1])
    )
    assert score(tmp_path / "kept") == pytest.approx(looks[-2]["score"])
    again = diptych("train", "--resume", "--out", tmp_path / "kept")
    assert again.code == 0, again.err
    assert score(tmp_path / "kept") == pytest.approx(looks[-2]["score"])


def test_a_guard_without_fault_changes_nothing(diptych, tmp_path):
    for name, guard in (("with", ("--guard", OLD, "--forget", "1")), ("without", ())):
        called = diptych(
            "train",
            "fine_tune",
            "--init",
            "tiny",
            "--data",
            NEW,
            "--out",
            tmp_path / name,
            *HARD[:2],
            "--steps",
            "2",
            *HARD[4:],
            *guard,
        )
        assert called.code == 0, called.err
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
            if '"loss"' in line
        ]
        for name in ("with", "without")
    ]
    assert losses[0] == losses[1]


def test_how_far_it_may_fall_is_checked(diptych, tmp_path):
    called = diptych(
        "train",
        "clip",
        "--init",
        "tiny",
        "--data",
        NEW,
        "--out",
        tmp_path / "run",
        "--guard",
        OLD,
        "--forget",
        "-1",
    )
    assert called.code == 2
    assert "'forget' of the run is -1" in called.err
