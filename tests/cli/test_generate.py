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
