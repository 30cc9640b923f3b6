"""`diptych evaluate`: what is typed reaches the suites, and every suite's tables can be read."""

import json

import pytest
from tests.cli.helpers import TINY

from diptych.cli import main
from diptych.cli.evaluate import _show
from diptych.evaluation import cards


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model") / "run"
    assert (
        main(
            [
                "train",
                "clip",
                "--data",
                "scenes:count=24:size=32",
                *TINY,
                "--out",
                str(folder),
                "--quiet",
            ]
        )
        == 0
    )
    return str(folder)


def test_help_names_every_suite(diptych):
    shown = " ".join(diptych("evaluate", "--help").out.split())
    assert all(name in shown for name in cards())


def test_settings_reach_their_suites_by_the_names_of_the_library(diptych, run):
    suites = "zeroshot,probe,retrieval,composition,gap"
    words = "--label colour --template {} --novel half --group design --shots 1,2 --seeds 4,5 --role synthetic --json"
    called = diptych(
        *(
            "evaluate",
            run,
            "--data",
            "scenes:count=30:size=32:edits=recolour",
            "--suite",
            suites,
            *words.split(),
        ),
        *("--train", "scenes:count=80:size=32:seed=1", "--template", "a {} thing"),
    )
    assert called.code == 0, called
    found = json.loads(called.out)
    assert found["zeroshot"]["prompts"] == ["{}", "a {} thing"]
    assert set(found["zeroshot"]["by_group"]) <= {"noto", "fluent-flat", "emojione"}
    assert 0 <= found["zeroshot"]["harmonic"] <= 1
    assert set(found["probe"]["by_shots"]) == {"1", "2"}
    assert (found["probe"]["n"], found["probe"]["n_train"]) == (30, 80)
    assert any("seeds=4,5" in option for option in found["probe"]["options"])
    assert found["retrieval"]["field"] == found["gap"]["field"] == "synthetic"
    assert set(found["composition"]["by_kind"]) == {"recolour"}
    assert len({result["protocol"] for result in found.values()}) == 5


def test_texts_alone_are_measured_from_the_command_line(diptych, run):
    data = "sentences:count=30:pair=graded:paraphrases=1:roles=negated"
    shown = diptych(
        "evaluate", run, "--data", data, "--suite", "sts,text_retrieval,hard_negatives"
    ).out
    for words in (
        "sts on sentences",
        "30 pairs",
        "pearson_low",
        "t2t_r1",
        "hard_negatives by kind",
        "negated",
    ):
        assert words in shown


def test_tables_are_told_apart_and_only_the_last_has_the_protocol(diptych, run):
    data = "scenes:count=30:size=32:noise=swap=0.4"
    called = diptych(
        "evaluate",
        run,
        "--data",
        data,
        "--suite",
        "noisy_pairs,factors",
        "--labels",
        "scene,size,count",
    )
    assert called.code == 0, called
    flags, factors = called.out.split("factors on ")
    assert "flagged" in flags.splitlines()[0]
    assert flags.index("noisy_pairs by kind:") < flags.index("protocol ")
    assert flags.count("protocol ") == factors.count("protocol ") == 1
    assert "left out: " in factors
    assert "scene: most values do not recur" in factors
    assert "ground" not in factors
    assert "chance_top1" in factors


def test_sources_joined_by_commas_are_tasks(diptych, run):
    data = "scenes:count=12:size=32,scenes:count=12:size=32:seed=1"
    shown = diptych("evaluate", run, "--data", data, "--suite", "continual", "--earlier", run).out
    assert "2 tasks" in shown
    assert "stage 1" in shown
    assert "backward_transfer" in shown


def test_templates_are_named_read_from_a_file_or_written_out(diptych, run, tmp_path):
    (tmp_path / "mine.txt").write_text("one {}\n")
    words = (
        "--template",
        "a {} | the {}",
        "--templates",
        "plain",
        "--templates",
        tmp_path / "mine.txt",
    )
    data = ("--data", "scenes:count=30:size=32:classes=novel:of=colour", "--label", "colour")
    called = diptych("evaluate", run, *data, "--suite", "zeroshot", *words, "--json")
    assert called.code == 0, called
    found = json.loads(called.out)["zeroshot"]
    assert found["prompts"] == ["a {}", "the {}", "a photo of a {}.", "one {}"]
    assert found["n"] < 30
    assert found["chance_top1"] == 1 / found["classes"] == 1 / 4


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["--suite", "zeroshot", "--templates", "imagnet"],
            ["unknown templates 'imagnet'; did you mean 'imagenet'"],
        ),
        (
            ["--suite", "zeroshot", "--template", "a {} {}"],
            ["template 'a {} {}'", "must hold {} once"],
        ),
        (["--suite", "probe", "--shots", "few"], ["--shots is 'few'", "--shots 1,4,16"]),
        (
            ["--suite", "probe", "--features", "tokens"],
            ["--features 'tokens'", "embedding or projected or pooled"],
        ),
        (["--suite", "answers", "--by", "loking"], ["--by 'loking'"]),
        (["--suite", "captions"], ["captions needs a model with generate"]),
        (["--suite", "retrieval", "--rerank", "5"], ["reranking needs a model with match"]),
        (["--suite", "composition"], ["composition needs edits", "scenes"]),
        (["--suite", "continual"], ["continual needs a source for each task"]),
        (["--suite", "sts"], ["sts compares two texts", "caption, question, answer"]),
        (["--suite", "sts", "--roles", "caption,answer"], ["sts needs a graded label", "object"]),
        (["--suite", "retrieval", "--shots", "4"], ["evaluation setting 'shots'"]),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(refused, run, words, parts):
    message = refused(
        "evaluate", run, "--data", "scenes:count=8:size=32:texts=caption+question", *words
    )
    assert all(part in message for part in parts), message


def test_an_empty_row_of_a_table_stays_empty(capsys):
    _show(
        "suite",
        {
            "n": 3,
            "data": "d",
            "bad": {"html": 2},
            "protocol": "p",
            "top1": 0.5,
            "chance_top1": 0.25,
            "by_kind": {"a": {"n": 1, "x": 0.25}, "b": {"y": 0.75}},
        },
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "suite on d: 3 images; left out: 2 html"
    assert lines[-1] == "protocol p"
    assert [line.split() for line in lines[-4:-2]] == [["a", "1", "0.250"], ["b", "0.750"]]


def test_prompts_are_read_from_a_run(diptych, run):
    words = ("--suite", "zeroshot", "--label", "colour", "--prompts", run)
    called = diptych("evaluate", "tiny", "--data", "scenes:count=4", *words)
    assert called.code == 2
    assert "is a run of clip and holds no prompts of classes" in called.err
