"""`diptych classify`: names of one's own, those that a folder brings, one image, and what cannot be
read."""

import json

import pytest
from tests.cli.helpers import make_folder

from diptych.data.sources import open_source


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twelve scenes of one thing, a folder a thing."""
    folder = tmp_path_factory.mktemp("things")
    source = open_source("scenes:count=12:number=1:seed=9")
    names = source.schema()["labels.object"].classes
    for sample in source:
        place = folder / names[sample.labels["object"]]
        place.mkdir(exist_ok=True)
        sample.images["main"].decode().save(place / f"{sample.key}.png")
    return folder


def test_the_folders_names_are_told_of_its_images(images, diptych):
    called = diptych("classify", "tiny", images, "--json", "-k", 2)
    assert called.code == 0, called.err
    reported = json.loads(called.out)
    assert set(reported["names"]) == {path.name for path in images.iterdir()}
    assert len(reported["images"]) == 12
    right = [
        each["classes"][0]["name"] == each["path"].split("/")[-2] for each in reported["images"]
    ]
    assert sum(right) >= 11
    for each in reported["images"]:
        first, second = (entry["probability"] for entry in each["classes"])
        assert 1 >= first >= second >= 0
    assert reported["bad"] == {}


def test_names_of_ones_own_win_from_the_line_or_a_file(images, diptych, tmp_path):
    colours = tmp_path / "colours.txt"
    colours.write_text("red\n green\n\nblue\n", "utf-8")
    lines = [
        diptych(
            "classify", "tiny", images, "--names", names, "--template", "a {} thing", "--json"
        ).out
        for names in ("red, green,blue", colours)
    ]
    assert json.loads(lines[0])["names"] == ["red", "green", "blue"]
    assert lines[0] == lines[1]
    assert (
        lines[0]
        != diptych("classify", "tiny", images, "--names", colours, "--template", "{}", "--json").out
    )


def test_the_tables_tell_images_and_how_many_each_class_has(images, diptych, monkeypatch):
    monkeypatch.setattr("diptych.cli.classify._SHOWN", 5)
    called = diptych("classify", "tiny", images)
    assert "and 7 more images; --json tells all" in called.out
    table = called.out.split("classes\n")[1]
    assert sum(int(line.split()[-2]) for line in table.strip().splitlines()[2:]) == 12


def test_one_image_is_classified_alone(images, diptych):
    path = next(images.glob("*/*.png"))
    called = diptych("classify", "tiny", path, "--names", f"{path.parent.name},violin", "--json")
    [one] = json.loads(called.out)["images"]
    assert (one["path"], one["classes"][0]["name"]) == (str(path), path.parent.name)


def test_a_corrupt_image_is_left_out_and_told(diptych, tmp_path):
    folder = make_folder(tmp_path / "photos")
    broken = sorted(folder.rglob("*.png"))[3]
    broken.write_bytes(broken.read_bytes()[:40])
    called = diptych("classify", "tiny", folder, "--names", "red,green", "--json")
    assert called.code == 0
    assert sum(json.loads(called.out)["bad"].values()) == 1
    assert "left out, as they cannot be read: 1 " in called.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "has no model"),
        (("tiny",), "has no images"),
        (("tiny", "{images}", "--names", "red,red"), "two classes are called 'red'"),
        (("tiny", "{images}", "--names", "red,,blue"), "hold an empty one"),
        (("tiny", "{images}", "--names", "names.txt"), "names.txt: there is no such file"),
        (
            ("tiny", "{images}", "--names", "red", "--templates", "a photo"),
            "unknown templates 'a photo'",
        ),
        (("tiny", "{images}", "--names", "red", "--templates", "{} and {}"), "must hold {} once"),
        (("tiny", "{images}", "-k", "0"), "-k is 0"),
        (("tiny", "{image}"), "no class is named; give --names"),
        (("tiny-lm", "{images}"), "tiny-lm"),
    ],
)
def test_bad_words_are_refused_in_one_line(words, message, images, refused):
    places = {"{images}": images, "{image}": next(images.glob("*/*.png"))}
    assert message in refused("classify", *(places.get(word, word) for word in words))


def test_classes_may_have_sentences_in_a_file(images, diptych, tmp_path):
    path = tmp_path / "sentences.json"
    names = sorted(folder.name for folder in images.iterdir())
    path.write_text(json.dumps({name: [f"a {name}", f"there is a {name}"] for name in names}))
    reported = json.loads(diptych("classify", "tiny", images, "--names", path, "--json").out)
    given = diptych("classify", "tiny", images, "--template", "a {} | there is a {}", "--json")
    for one, other in zip(reported["images"], json.loads(given.out)["images"], strict=True):
        assert one["key"] == other["key"]
        assert [row["name"] for row in one["classes"]] == [row["name"] for row in other["classes"]]
        assert [row["probability"] for row in one["classes"]] == pytest.approx(
            [row["probability"] for row in other["classes"]], abs=1e-6
        )
    called = diptych("classify", "tiny", images, "--names", path, "--template", "a {}")
    assert (called.code, "leave out --template" in called.err) == (2, True)
    path.write_text(json.dumps({"cat": []}))
    called = diptych("classify", "tiny", images, "--names", path)
    assert "the class 'cat' has no sentence" in called.err


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A run that scores labels of texts, and texts."""
    import diptych as package

    folder = tmp_path_factory.mktemp("texts")
    lines = [f"a {colour} {thing}" for colour in ("red", "blue") for thing in ("circle", "bar")]
    (folder / "t.txt").write_text("\n".join(lines * 4), "utf-8")
    package.train(
        "nlp_primer",
        str(folder / "t.txt"),
        folder / "run",
        config={"objective": "cless:width=16"},
        text_tower="text:width=32:depth=1:heads=2:causal=false:pooling=mean",
        tokenizer="words:context=8",
        embed_dim=16,
        batch_size=8,
        steps=2,
        quiet=True,
    )
    return folder


def test_texts_are_classified_in_a_table_and_as_json(texts, diptych, monkeypatch):
    monkeypatch.setattr("diptych.cli.classify._SHOWN", 5)
    called = diptych("classify", texts / "run", texts / "t.txt", "--names", "red,blue", "-k", 2)
    assert called.code == 0, called.err
    assert "a red circle" in called.out
    assert "and 11 more texts; --json tells all" in called.out
    called = diptych("classify", texts / "run", texts / "t.txt", "--names", "red,blue", "--json")
    reported = json.loads(called.out)
    assert reported["names"] == ["red", "blue"]
    assert len(reported["texts"]) == 16
    assert set(reported["texts"][0]) == {"key", "text", "classes"}
    assert reported["bad"] == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no class is named; give --names 'A,B,C'"),
        (("--names", "red, "), "hold an empty one; name every class"),
        (("--names", "red", "--template", "a {}"), "scores labels by their words"),
        (("--names", "red", "--role", "title"), "unknown role of the texts of source"),
        (("--names", "red", "--route"), "--route needs a model with route"),
    ],
)
def test_bad_words_about_texts_are_refused_in_one_line(texts, refused, words, message):
    assert message in refused("classify", texts / "run", texts / "t.txt", *words)


def test_labels_of_texts_are_measured_on_the_command_line(texts, diptych, refused, tmp_path):
    rows = [{"text": f"a {colour} bar", "labels": [colour]} for colour in ("red", "blue")]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    suite = ("--suite", "text_labels")
    called = diptych("evaluate", texts / "run", "--data", path, *suite, "--names", "red")
    assert called.code == 0, called.err
    assert "2 texts, 1 labels" in called.out
    assert "text_labels by label:" in called.out
    line = refused("evaluate", texts / "run", "--data", path, *suite, "--names", "rde")
    assert "did you mean 'red'" in line
