"""`diptych data`: shards that other commands read, a page to look at, and what bad words are
told."""

import json
import re

import pytest
from PIL import Image

from diptych.cli import data
from diptych.cli._data_help import _MEANS, WORDS
from diptych.data.sources import open_source


def test_the_help_lists_all_commands_and_each_has_its_own_with_its_options(diptych):
    out = diptych("data", "--help").out
    assert list(WORDS) == list(data._OPTIONS)
    for name, options in data._OPTIONS.items():
        assert re.search(rf"\n  {name} +{re.escape(WORDS[name].title)}\n", out)
        assert set(_MEANS[name]) <= {"out", *options}
        page = diptych("data", name, "--help").out
        assert page.startswith(f"usage: diptych data {name} ")
        assert f"\n  diptych data {name} " in page
        shown = re.findall(r"^  --([a-z-]+)", page, re.MULTILINE)
        assert {each.replace("-", "_") for each in shown} == {"out", *options}


def test_make_writes_shards_that_are_read_by_other_commands(diptych, tmp_path):
    out = tmp_path / "shards"
    called = diptych(
        "data", "make", "scenes:size=32", "--count", 25, "--seed", 3, "--shard", 10, "--out", out
    )
    assert called.code == 0, called
    assert "25 samples in 3 shards" in called.out
    back = open_source(f"{out}/*.tar")
    assert list(back.keys()) == list(open_source("scenes:size=32:count=25:seed=3").keys())
    assert diptych("check", f"{out}/*.tar").code == 0
    again = diptych(
        "data", "make", "scenes:size=32:seed=3", "--count", 25, "--shard", 10, "--out", out
    )
    assert again.code == 0  # all there: nothing to do


def test_show_writes_one_page_with_images_texts_masks_and_edits(diptych, tmp_path):
    out = tmp_path / "pages" / "scenes.html"
    called = diptych("data", "show", "scenes:edits=recolour:pages=1", "--count", 2, "--out", out)
    assert called.code == 0, called
    page = out.read_text("utf-8")
    source = open_source("scenes:edits=recolour:count=2")
    for sample in source:
        assert sample.key in page
        for text in sample.texts:
            assert text.text.replace("'", "&#x27;") in page
        for edit in sample.edits:
            assert edit.captions("instruction")[0] in page
        assert f"mask: {next(iter(sample.masks))}" in page
    images = sum(2 + len(sample.masks) + len(sample.edits) for sample in source)
    assert page.count("data:image/webp;base64,") == images
    assert page.count('<svg class="boxes"') == len(source)
    assert "http" not in page.replace("http-equiv", "")


def test_show_works_for_every_world(diptych, tmp_path):
    from diptych.data.worlds import cards

    for name in cards():
        called = diptych("data", "show", name, "--count", 2, "--out", tmp_path / f"{name}.html")
        assert called.code == 0, called
        assert open_source(f"{name}:count=2")[1].key in (tmp_path / f"{name}.html").read_text(
            "utf-8"
        )


def test_filter_writes_a_list_that_is_read_in_place_of_the_source(diptych, tmp_path):
    table = tmp_path / "pairs.jsonl"
    texts = ["a red cat", "a red cat on snow", "photo", *["click here now"] * 4]
    for at in range(len(texts)):
        Image.new("RGB", (40, 40), (at, 0, 0)).save(tmp_path / f"{at}.png")
    rows = [json.dumps({"image": f"{at}.png", "caption": text}) for at, text in enumerate(texts)]
    table.write_text("\n".join(rows) + "\n", "utf-8")
    out = tmp_path / "lists" / "kept.npz"
    rules = "shorter_side=None:images_per_text=3"
    called = diptych("data", "filter", table, "--rules", rules, "--out", out)
    assert called.code == 0, called
    assert re.search(r"shared-text\s+4\s+57", called.out), called.out
    assert re.search(r"short\s+1\s+14", called.out), called.out
    assert [sample.captions() for sample in open_source(f"filtered:{out}")] == [
        [texts[0]],
        [texts[1]],
    ]
    assert diptych("check", f"filtered:{out}").code == 0
    shown = tmp_path / "shown.jsonl"
    shown.write_text(rows[1] + "\n", "utf-8")
    called = diptych("data", "filter", table, "--rules", rules, "--test", shown, "--out", out)
    assert called.code == 2, called
    assert re.search(r"is kept \(test [1-7], ", called.err), (
        called.err
    )  # its own image, and colours that look alike


def test_a_filter_that_keeps_nothing_says_so_and_writes_nothing(refused, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "photos.csv").write_text("filename,caption\na.png,a dog runs\n", "utf-8")
    told = refused("data", "filter", tmp_path / "photos.csv", "--out", tmp_path / "kept.npz")
    assert "no pair of " in told
    assert "(small 1)" in told
    assert "loosen --rules" in told
    assert not (tmp_path / "kept.npz").exists()


def test_negatives_of_photos_are_told_where_they_are_fewer_than_asked(diptych, tmp_path):
    rows = ["filename,caption"]
    texts = ("A BMX rider jumps", "a dog runs", "a dog sleeps", "2 cats sleep")
    for at, text in enumerate(texts):
        Image.new("RGB", (8, 8), (40 * at, 0, 0)).save(tmp_path / f"{at}.png")
        rows.append(f"{at}.png,{text}")
    (tmp_path / "photos.csv").write_text("\n".join(rows) + "\n", "utf-8")
    out = tmp_path / "lists"
    called = diptych(
        *("data", "negatives", tmp_path / "photos.csv", "--kinds", "rule+retrieval", "--each", 2),
        *("--out", out),
    )
    assert called.code == 0, called
    assert re.search(r"retrieval\s+8\s+2.0\s+8", called.out), called.out
    assert re.search(r"rule\s+2\s+0.5\s+8", called.out), called.out
    assert "3 captions hold nothing that a rule changes" in called.out
    near = [sample.edits[-2].captions() for sample in open_source(str(out / "align.json"))]
    assert near[1:3] == [["a dog sleeps"], ["a dog runs"]]
    called = diptych(
        *("data", "negatives", tmp_path / "photos.csv", "--kinds", "rule", "--each", 2),
        *("--out", tmp_path / "rules"),
    )
    assert called.code == 0, called
    assert "3 samples have no caption or no negatives, or cannot be read" in called.out


def test_negatives_writes_a_list_that_a_method_trains_on(diptych, tmp_path):
    out = tmp_path / "lists"
    world = "diagrams:edits=letters:number=2:size=32"
    called = diptych(
        "data", "negatives", world, "--kinds", "edits+rule", "--each", 3, "--count", 6, "--out", out
    )
    assert called.code == 0, called
    assert re.search(r"letters\s+12\s+2.0", called.out), called.out
    assert re.search(r"rule\s+18\s+3.0", called.out), called.out
    samples = open_source(str(out / "align.json"))
    assert [edit.kind for edit in samples[2].edits] == ["letters"] * 2 + ["rule"] * 3
    assert samples[2].captions() == open_source(f"{world}:count=6")[2].captions()
    trained = diptych(
        "train", "mmgeolm", "--data", out / "align.json", "--out", tmp_path / "run",
        "--steps", 1, "--batch-size", 2, "--image-tower", "conv:image_size=32:widths=(8,8):depths=(1,1)",
        "--text-tower", "text:width=16:depth=1:heads=2",
    )  # fmt: skip
    assert trained.code == 0, trained
    found = diptych(
        "evaluate", tmp_path / "run", "--data", f"{world}:count=4", "--suite", "composition"
    )
    assert found.code == 0, found
    assert "letters" in found.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["negatives", "diagrams", "--out", "x"], "has no kinds to make; give --kinds"),
        (["negatives", "diagrams", "--kinds", "rules", "--out", "x"], "did you mean 'rule'"),
        (
            ["negatives", "glyphs:split=val", "--kinds", "rule", "--count", "3", "--out", "x"],
            "--count goes with a world",
        ),
        (
            ["negatives", "glyphs:split=val", "--kinds", "edits", "--out", "x"],
            "has no edits; leave kind edits out",
        ),
        ([], "unknown word behind `diptych data` ''"),
        (["maek", "scenes", "--out", "x"], "did you mean 'make'"),
        (["make", "--out", "x"], "has no world; name one, such as scenes"),
        (["make", "scenes"], "has nowhere to write; give --out"),
        (["make", "scnes", "--out", "x"], "unknown world 'scnes'; did you mean 'scenes'"),
        (["make", "scenes:sizes=3", "--out", "x"], "did you mean 'size'"),
        (["show", "scenes:edits=recolor", "--out", "x"], "did you mean 'recolour'"),
        (["make", "scenes:count=3", "--count", "4", "--out", "x"], "count is given twice"),
        (["make", "scenes", "--count", "0", "--out", "x"], "must be at least 1"),
        (["make", "scenes", "--count", "few", "--out", "x"], "it takes a whole number"),
        (["make", "scenes", "--conut", "4", "--out", "x"], "did you mean '--count'"),
        (["show", "scenes", "--shard", "4", "--out", "x"], "goes with `data make`"),
        (["show", "scenes", "--count", "1", "--out", "."], "is a folder; give a file"),
        (["filter", "--out", "x.npz"], "has no source"),
        (["filter", "glyphs", "--out", "x"], "give --out x.npz"),
        (
            ["filter", "glyphs", "--out", "x.npz", "--count", "3"],
            "--count goes with `data make`, `data show`, `data vary`, `data negatives` and `data contrast`, not",
        ),
        (["filter", "glyphs", "--out", "x.npz", "--rules", "aspekt=3"], "did you mean 'aspect'"),
        (["filter", "glyphs", "--out", "x.npz", "--rules", "aspect=0"], "aspect is 0"),
        (
            ["filter", "glyphs:split=val", "--out", "x.npz", "--role", "web"],
            "no text of role 'web'",
        ),
        (["make", "scenes", "--out", "x", "--role", "web"], "--role goes with `data filter`"),
    ],
)
def test_bad_input(refused, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused("data", *words)
    assert list(tmp_path.iterdir()) == []


def test_make_refuses_a_folder_with_other_things(refused, tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    assert "holds other files" in refused(
        "data", "make", "scenes:size=32", "--count", 2, "--out", tmp_path
    )
