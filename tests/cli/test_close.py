"""From texts alone to captions and answers about images, on the command line."""

import json

import pytest

from diptych.data.sources import open_source

LM = ("--method.lm", "text:width=32:depth=1:heads=2")
SHORT = ("--steps", "3", "--batch-size", "8", "--quiet", "--method.max_tokens", "4", *LM)
SCENES = "scenes:count=24:number=1:seed=9:size=32"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Scenes as a table of texts, and some of their images as a folder."""
    place = tmp_path_factory.mktemp("close")
    source = open_source(SCENES)
    rows = [
        json.dumps({"caption": sample.captions()[0], "article": sample.captions("synthetic")[0]})
        for sample in source
    ]
    (place / "texts.jsonl").write_text("\n".join(rows) + "\n")
    (place / "photos").mkdir()
    for at in range(3):
        source[at].images["main"].decode().save(place / "photos" / f"{at}.png")
    (place / "photos" / "broken.png").write_bytes(b"")
    return place


def test_texts_alone_become_captions_of_images(places, diptych, tmp_path):
    run = tmp_path / "run"
    called = diptych(
        "train",
        "close",
        "--init",
        "tiny",
        "--data",
        places / "texts.jsonl",
        *SHORT,
        "--val",
        f"{SCENES}:texts=caption",
        "--out",
        run,
    )
    assert called.code == 0, called.err
    assert "validation: accuracy" in called.err
    assert f"diptych generate {run} --images IMAGES" in called.out
    words = ("--strategy", "greedy", "--max-tokens", "5")
    called = diptych("generate", run, "--images", places / "photos", *words)
    lines = [line.split("\t") for line in called.out.splitlines()]
    assert [line[0].rpartition("/")[2] for line in lines] == ["0.png", "1.png", "2.png"]
    assert "1 zero-byte" in called.err
    found = json.loads(
        diptych("generate", run, "--images", places / "photos", *words, "--json").out
    )
    assert [" ".join(each["text"].split()) for each in found] == [line[1] for line in lines]
    assert {"key", "path", "text"} == set(found[0])
    one = diptych(
        "generate", run, "what is it?", "--images", places / "photos" / "0.png", "--max-tokens", "3"
    )
    assert len(one.out.splitlines()) == 1
    reported = json.loads(diptych("info", run, "--json").out)
    assert reported["method"] == "close"
    assert "language_model" in reported
    result = json.loads(
        diptych(
            "evaluate",
            run,
            "--data",
            f"{SCENES}:texts=caption",
            "--suite",
            "captions,gap",
            "--json",
        ).out
    )
    assert {"captions", "gap"} <= set(result.get("results", result))


def test_texts_in_a_register_become_captions_in_it(diptych, tmp_path):
    scenes = "scenes:number=1:seed=9:size=32:drop=0:count"
    data = f"{scenes}=64:texts=uplifting"
    options = ("--method.source", "uplifting", "--method.max_tokens", "6", *LM)
    called = diptych(
        *("train", "close", "--init", "tiny", "--data", data, *options),
        *("--steps", 60, "--batch-size", 16, "--lr", 2e-2, "--quiet", "--out", tmp_path / "run"),
    )
    assert called.code == 0, called.err
    words = ("evaluate", tmp_path / "run", "--suite", "captions", "--register", data)
    called = diptych(*words, "--data", f"{scenes}=12:split=val:texts=caption", "--json")
    assert called.code == 0, called.err
    found = json.loads(called.out)
    found = found.get("results", found)["captions"]
    assert found["chance_register"] == 0
    assert found["register"] > 0.2
    assert found["register_texts"] > 0.1
    assert found["field"] == "caption"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            f"{SCENES}:texts=caption+question",
            ("--method.context", "question", "--method.target", "answer"),
        ),
        ("texts.jsonl", ("--method.context", "article")),
        (
            f"{SCENES}:texts=paraphrase",
            ("--method.source", "paraphrase", "--method.target", "paraphrase"),
        ),
        (f"{SCENES}:texts=caption", ("--method.train_on", "images")),
        (f"{SCENES}:texts=caption", ("--method.gap", "linear", "--data", f"pairs={SCENES}")),
    ],
    ids=["answers", "news", "multiple", "images", "linear"],
)
def test_every_task_is_a_matter_of_options(data, words, places, diptych, tmp_path):
    data = places / data if data.endswith(".jsonl") else data
    called = diptych(
        "train",
        "close",
        "--init",
        "tiny",
        "--data",
        data,
        *words,
        *SHORT,
        "--out",
        tmp_path / "run",
    )
    assert called.code == 0, called.err
    if "answer" in words:
        reported = json.loads(
            diptych(
                "evaluate",
                tmp_path / "run",
                "--data",
                f"{SCENES}:texts=question",
                "--suite",
                "answers",
                "--json",
            ).out
        )
        numbers = reported.get("results", reported)["answers"]
        assert 0 <= numbers["exact"] <= 1


def test_entailment_is_learnt_from_snli_and_asked_of_images(places, diptych, tmp_path):
    rows = [
        {
            "pairID": f"{at}#{label}",
            "gold_label": label,
            "sentence1": "a red cat",
            "sentence2": f"{at} {label}",
            "Flickr30K_ID": at % 3,
        }
        for at in range(8)
        for label in ("entailment", "neutral", "contradiction")
    ]
    path = tmp_path / "snli_ve_dev.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    task = ("--method.context", "question", "--method.target", "answer")
    assert (
        diptych(
            "train",
            "close",
            "--init",
            "tiny",
            "--data",
            path,
            *task,
            *SHORT,
            "--out",
            tmp_path / "run",
        ).code
        == 0
    )
    (tmp_path / "flickr30k-images").mkdir()
    for at in range(3):
        image = open_source(SCENES)[at].images["main"].decode()
        image.save(tmp_path / "flickr30k-images" / f"{at}.jpg")
    for by, name in (("generate", "exact"), ("log_prob", "chosen")):
        reported = json.loads(
            diptych(
                "evaluate",
                tmp_path / "run",
                "--data",
                path,
                "--suite",
                "answers",
                "--by",
                by,
                "--json",
            ).out
        )
        numbers = reported.get("results", reported)["answers"]
        assert numbers["n"] == 24
        assert numbers[f"chance_{name}"] == pytest.approx(1 / 3)


def test_bad_words_are_refused_in_one_line(places, diptych, refused, tmp_path):
    run = tmp_path / "run"
    assert (
        diptych(
            "train",
            "close",
            "--init",
            "tiny",
            "--data",
            places / "texts.jsonl",
            *SHORT,
            "--out",
            run,
        ).code
        == 0
    )
    assert "--images" in refused("generate", run, "a red")
    assert "--count" in refused("generate", run, "--images", places / "photos", "--count", "2")
    assert "did you mean 'greedy'" in refused(
        "generate", run, "--images", places / "photos", "--strategy", "gredy"
    )
    assert "check the path" in refused("generate", run, "--images", tmp_path / "none" / "x")
    assert "--init" in refused(
        "train", "close", "--data", places / "texts.jsonl", "--out", tmp_path / "a"
    )
    assert "no folder" in refused(
        "train",
        "close",
        "--init",
        "tiny",
        "--data",
        places / "texts.jsonl",
        "--method.lm",
        "t5:nowhere",
        "--out",
        tmp_path / "b",
    )
    assert "reads no images" in refused("generate", "tiny-lm", "a", "--images", places / "photos")
