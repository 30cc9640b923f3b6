"""`diptych generate`, and what the other verbs make of a language model."""

import json

import pytest

from diptych.cli import main
from diptych.testing.toy import Toy

TEXTS = [Toy(128)[i].captions()[0] for i in range(0, 128, 5)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    (folder / "texts.csv").write_text("caption\n" + "\n".join(TEXTS) + "\n")
    words = [
        "train",
        "language_model",
        "--data",
        folder / "texts.csv",
        "--out",
        folder / "run",
        "--steps=3",
        "--batch-size=8",
        "--text-tower=text:width=32:depth=1:heads=2",
        "--quiet",
        "--tokenizer=bpe:vocab_size=320:context=32",
    ]
    assert main([str(word) for word in words]) == 0
    return folder / "run"


def test_training_tells_what_can_be_done_next(run, diptych, tmp_path):
    data, more = run.parent / "texts.csv", tmp_path / "more"
    called = diptych(
        "train",
        "language_model",
        "--data",
        data,
        "--out",
        more,
        "--init",
        run,
        "--steps=1",
        "--batch-size=8",
        "--quiet",
    )
    assert called.out.splitlines()[1:] == [
        f"  diptych evaluate {more} --data SOURCE --suite perplexity",
        f"  diptych generate {more} 'SOME WORDS'",
    ]


def test_texts_begin_with_the_prompt_and_follow_the_seed(run, diptych):
    called = diptych("generate", run, "a red", "--count", 3, "--max-tokens", 5, "--seed", 1)
    lines = called.out.splitlines()
    assert (called.code, len(lines)) == (0, 3)
    assert all(line.startswith("a red") for line in lines)
    assert len(set(lines)) > 1
    assert (
        diptych("generate", run, "a red", "--count", 3, "--max-tokens", 5, "--seed", 1).out
        == called.out
    )
    assert (
        diptych("generate", run, "a red", "--count", 3, "--max-tokens", 5, "--seed", 2).out
        != called.out
    )


def test_strategies_and_their_options_are_passed_on(run, diptych):
    from diptych.methods.store import load

    model = load(run)
    for words, settings in (
        (("--strategy", "greedy"), {"strategy": "greedy"}),
        (
            ("--strategy", "beam", "--beams", 2, "--length-penalty", 0.5),
            {"strategy": "beam", "beams": 2, "length_penalty": 0.5},
        ),
        (
            ("--top-k", 3, "--top-p", 0.5, "--temperature", 2),
            {"strategy": "sample", "top_k": 3, "top_p": 0.5, "temperature": 2.0},
        ),
        (("--min-tokens", 4), {"strategy": "sample", "min_tokens": 4}),
    ):
        found = diptych("generate", run, "a", "--max-tokens", 6, "--json", *words)
        assert json.loads(found.out) == [
            "a" + model.generate(["a"], max_tokens=6, **settings)[0]
        ], found


def test_without_a_prompt_texts_begin_anew(run, diptych):
    assert diptych("generate", run, "--max-tokens", 4).code == 0


def test_bad_words_are_refused_in_one_line(run, refused, tmp_path):
    assert "no model" in refused("generate")
    assert "did you mean 'sample'" in refused("generate", run, "a", "--strategy", "sampel")
    assert "'top_p'" in refused("generate", run, "a", "--strategy", "greedy", "--top-p", 0.9)
    assert "--count is 0" in refused("generate", run, "a", "--count", 0)
    assert "leaves" in refused("generate", run, "a", "--max-tokens", 99)
    assert "there is no model at" in refused("generate", tmp_path / "nothing", "a")


def test_info_tells_what_a_language_model_is(run, diptych):
    facts = json.loads(diptych("info", run, "--json").out)
    assert facts["method"] == "language_model"
    assert facts["language_model"] == {"width": 32, "depth": 1, "heads": 2, "context": 32}
    assert facts["parameters"] > 10_000
    assert facts["preprocess"] is None


def test_verbs_that_embed_refuse_it_and_suites_of_texts_take_it(run, refused, diptych, tmp_path):
    texts = run.parent / "texts.csv"
    images = "glyphs:split=test:design=noto"
    assert "embeds neither images nor texts; name a model that does" in refused(
        "embed", run, images, "--out", tmp_path / "emb"
    )
    assert "neither a dual encoder nor an encoder of texts, and only these are exported" in refused(
        "export", run, "--to", "onnx", "--out", tmp_path / "onnx"
    )
    assert "embed_images" in refused("evaluate", run, "--data", images)
    result = json.loads(
        diptych("evaluate", run, "--data", texts, "--suite", "perplexity", "--json").out
    )
    assert result["perplexity"]["n"] == len(TEXTS)


def test_a_model_that_embeds_does_not_generate(train, refused, pairs_csv, tmp_path):
    train(pairs_csv, tmp_path / "run")
    assert "diptych generate needs a model with generate, which" in refused(
        "generate", tmp_path / "run", "a"
    )


def test_strategies_are_named_with_their_options(run, diptych, refused):
    from diptych.methods.store import load

    spec = "contrastive:k=4:alpha=0.6"
    words = ("generate", run, "a red", "--max-tokens", 6, "--json")
    found = diptych(*words, "--strategy", spec)
    expected = load(run).generate(["a red"], strategy=spec, max_tokens=6)[0]
    assert json.loads(found.out) == ["a red" + expected]
    assert "did you mean 'alpha'" in refused(*words, "--strategy", "contrastive:alfa=0.6")
    assert "'k' of strategy 'contrastive' is 0" in refused(*words, "--strategy", "contrastive:k=0")


def test_texts_of_a_source_are_continued_into_a_file(run, diptych, tmp_path):
    data, out = run.parent / "texts.csv", tmp_path / "new" / "written.jsonl"
    words = ("generate", run, "--data", data, "--prefix", 3, "--max-tokens", 6)
    called = diptych(*words, "--out", out)
    assert called.code == 0, called
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == len(TEXTS)
    assert {row["strategy"] for row in rows} == {"contrastive:k=5:alpha=0.6"}
    assert all(text.startswith(row["prompt"]) for row, text in zip(rows, TEXTS, strict=True))
    again = json.loads(diptych(*words, "--json", "--top-p", 0.5, "--strategy", "sample").out)
    assert {row["strategy"] for row in again} == {"sample:top_p=0.5"}
    assert len(diptych(*words).out.splitlines()) == len(TEXTS)


def test_code_is_written_as_humaneval_scores_it(run, diptych, tmp_path):
    problem = {"task_id": "HumanEval/0", "prompt": "a red", "canonical_solution": " x",
               "test": "assert", "entry_point": "f"}  # fmt: skip
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(problem) + "\n")
    source = f"{tmp_path}/HumanEval.jsonl:text=prompt:key=task_id"
    words = ("generate", run, "--data", source, "--task", "code", "--max-tokens", 5)
    called = diptych(*words, "--out", tmp_path / "samples.jsonl")
    assert called.code == 0, called
    [row] = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert set(row) == {"task_id", "completion"}
    assert row["task_id"] == "HumanEval/0"


def test_a_page_is_rated_blind_and_its_votes_are_counted(run, diptych, refused, tmp_path):
    page = tmp_path / "rate.html"
    words = ("generate", run, "--data", run.parent / "texts.csv", "--prefix", 3, "--max-tokens", 6)
    called = diptych(*words, "--strategy", "greedy", "--against", "reference", "--blind", page)
    assert called.code == 0, called
    key = json.loads((tmp_path / "rate.key.json").read_text())
    assert key["names"] == ["greedy", "reference"]
    lines = [
        f"{key['page']},{at},{'left' if item['left'] == 'greedy' else 'right'},ann"
        for at, item in enumerate(key["items"][:8], 1)
    ]
    (tmp_path / "votes.csv").write_text("\n".join(["page,item,vote,rater", *lines]))
    votes = ("generate", "--blind", page, "--votes", tmp_path / "votes.csv")
    found = json.loads(diptych(*votes, "--json").out)
    assert found["wins"] == [8, 0]
    assert found["p"] == 2 / 2**8
    assert "greedy: better in 8 texts" in diptych(*votes).out
    assert "choose another name" in refused(
        *words, "--strategy", "greedy", "--against", "sample", "--blind", page
    )
    assert "name it with --blind" in refused("generate", "--votes", tmp_path / "votes.csv")


def test_texts_of_a_source_are_refused_where_they_make_no_sense(run, refused):
    data = ("--data", run.parent / "texts.csv")
    words = ("generate", run)
    assert "name it with --data" in refused(*words, "a", "--task", "summary")
    assert "leave out the prompt" in refused(*words, "a", *data)
    assert "leave out --count" in refused(*words, *data, "--count", 2)
    assert "both --blind and --against" in refused(*words, *data, "--blind", "x.html")
    assert "did you mean 'greedy'" in refused(
        *words, *data, "--blind", "x.html", "--against", "gredy"
    )
    assert "did you mean 'summary'" in refused(*words, *data, "--task", "summry")
    assert "of the 32 tokens" in refused(*words, *data, "--max-tokens", 40, "--prefix", 1)


def test_suites_of_a_language_model_run_from_the_command_line(run, diptych, refused, tmp_path):
    data = ("--data", run.parent / "texts.csv")
    hook = tmp_path / "score.py"
    hook.write_text("def mauve(texts, references):\n    return len(texts) / len(references)\n")
    words = "--suite isotropy,degeneration,continuation --prefix 1 --length 4 --json"
    called = diptych(
        "evaluate", run, *data, *words.split(), "--strategies", "greedy,contrastive:k=3",
        "--scorer", run, "--mauve", hook, "--unit", "character",
    )  # fmt: skip
    assert called.code == 0, called
    found = json.loads(called.out)
    assert 0 < found["isotropy"]["isotropy"] < 2
    rows = found["degeneration"]["by_strategy"]
    assert rows["contrastive:k=3"]["mauve"] == 1
    assert rows["text"]["coherence"] < 0
    assert set(found["continuation"]["by_strategy"]) == {"chance", "greedy", "contrastive:k=3"}
    alone = ("--suite", "degeneration", "--prefix", 2, "--length", 20, "--prompts-alone")
    assert diptych("evaluate", run, *data, *alone).code == 0
    (tmp_path / "empty.py").write_text("")
    assert "has no function mauve" in refused(
        "evaluate", run, *data, "--suite", "degeneration", "--mauve", tmp_path / "empty.py"
    )
