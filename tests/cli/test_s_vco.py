"""From edited scenes to pairs, and from pairs to a corrected model, on the command line."""

import json
import re

import pytest

from diptych.cli import main
from diptych.data.sources import open_source

LM = ("--method.lm", "text:width=32:depth=1:heads=2")
SHORT = ("--steps", "2", "--batch-size", "8", "--quiet", "--method.max_tokens", "3")
SCENES = "scenes:number=2:same=0:seed=9:size=32"
TURNED = f"{SCENES}:texts=question:edits=recolour"


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """A vision-language model that has seen two batches."""
    run = tmp_path_factory.mktemp("s_vco") / "run"
    words = (
        *("train", "cg_vlm", "--init", "tiny", "--data", f"instructions={TURNED}:count=24"),
        *("--method.grid", "2", *LM, *SHORT, "--out", run),
    )
    assert main([str(word) for word in words]) == 0
    return run


def test_pairs_are_written_and_a_model_is_corrected_by_them(answers, diptych, tmp_path):
    pairs = tmp_path / "pairs"
    called = diptych(
        *("data", "contrast", TURNED, "--count", "60", "--model", "tiny", "--differs", "tiny"),
        *("--above", "-1", "--below", "0.999999", "--out", pairs),
    )
    assert called.code == 0, called.err
    found = int(re.search(r"pairs written\s+(\d+)", called.out)[1])
    source = open_source(str(pairs / "contrast.json"))
    assert len(source) == found > 8
    run = tmp_path / "run"
    start = ("train", "s_vco", "--init", answers, "--data", pairs / "contrast.json")
    called = diptych(*start, "--method.grid", "2", *SHORT, "--out", run)
    assert called.code == 0, called.err
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first = next(line for line in lines if "loss" in line)
    assert first["loss"] == pytest.approx(2.772589, abs=1e-4)
    assert {"attend_w_accuracy", "reject_l_margin", "reward_ww"} <= set(first)
    data = ("--data", f"{TURNED}:count=12")
    called = diptych("evaluate", run, *data, "--suite", "answers", "--blind", "--json")
    assert called.code == 0, called.err
    assert {"blind_exact", "dependency"} <= set(json.loads(called.out)["answers"])
    suites = ("--suite", "orderings,hallucination,dependency", "--base", answers)
    called = diptych("evaluate", run, *data, *suites, "--by", "log_prob", "--json")
    assert called.code == 0, called.err
    found = json.loads(called.out)
    assert 0 <= found["orderings"]["attend"] <= 1
    assert {"gain", "dependency"} <= set(found["dependency"])
    assert 0 <= found["hallucination"]["yes"] <= 1
    called = diptych("generate", run, "which colour?", "--images", pairs / "images", "--json")
    assert called.code == 0, called.err
    assert diptych("info", run).code == 0


def test_bad_input_is_one_line(answers, diptych, tmp_path):
    start = ("train", "s_vco", "--out", tmp_path / "run", *SHORT)
    for words, message in (
        (
            ("--init", "tiny", "--data", f"{TURNED}:count=9"),
            "start from one, such as a RUN of cg_vlm",
        ),
        (
            ("--init", answers, "--data", f"{TURNED}:count=9"),
            "has grid 2, this one would have 4; give --method.grid 2",
        ),
        (
            ("--init", answers, "--method.grid", "2", "--data", f"{SCENES}:count=9:texts=question"),
            "has no edits, which",
        ),
    ):
        called = diptych(*start, *words)
        assert (called.code, called.err.count("\n")) == (2, 1), called.err
        assert message in called.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "tiny"), "give --model and --differs"),
        (("--above", "0.5"), "--above is a cosine by a model"),
        (("--prompt", "ask.txt"), "--prompt is for a writer; name one with --by"),
        (("--of", "class"), "say how many with --flips"),
        (("--by", "tiny"), "needs a model with generate, which tiny has not"),
        (("--only", "recolor"), "no sample of"),
    ],
)  # fmt: skip
def test_contrast_says_what_is_wrong_in_one_line(diptych, tmp_path, words, message):
    called = diptych("data", "contrast", TURNED, "--count", "3", *words, "--out", tmp_path / "out")
    assert (called.code, called.err.count("\n")) == (2, 1), called.err
    assert message in called.err
    assert list(tmp_path.iterdir()) == []
