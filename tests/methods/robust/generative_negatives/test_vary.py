"""Variations of a world's images on disk: the table, what a stopped run leaves, and refusals."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diptych
from diptych.cli import main
from diptych.data.sample import BadSample, Sample
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.robust.generative_negatives.generators import WorldVariations
from diptych.methods.robust.generative_negatives.variations import image_variation_area
from diptych.methods.robust.generative_negatives.vary import vary

WORLD = "scenes:count=5:number=2:same=0:drop=0:size=32"


@pytest.fixture(scope="module")
def tiny():
    return diptych.load("tiny")


def run(folder: Path, model: Any, generator: Any = None, **options: Any):
    source = open_source(WORLD)
    return vary(source, generator or WorldVariations(source), model, folder, **options)


def test_the_table_is_read_as_variations_of_items(tmp_path: Path, tiny):
    found = run(tmp_path / "a", tiny, count=3)
    assert (found.variations, found.groups, dict(found.dropped)) == (30, 10, {})
    source = open_source(str(tmp_path / "a/variations.json"))
    assert len(source) == 30
    assert sorted(np.bincount(source.labels("item")).tolist()) == [3] * 10  # type: ignore[attr-defined]
    rows = json.loads((tmp_path / "a/variations.json").read_text())
    images = [np.asarray(source[at].images["main"].decode()) for at in range(3)]
    assert rows[0]["iva_score"] == image_variation_area(np.stack(images))
    score = tiny.similarity(
        tiny.embed_images([source[1].images["main"].decode()]),
        tiny.embed_texts(source[1].captions()),
    )
    assert rows[1]["itm_score"] == pytest.approx(score[0].tolist(), abs=1e-6)
    assert not (tmp_path / "a/groups.jsonl").exists()


def test_only_the_item_varies_in_image_and_caption():
    source: Any = open_source(WORLD)
    generator = WorldVariations(source)
    for index in range(len(source)):
        sample = source[index]
        for item in generator.items(sample):
            found = generator(sample, item, 4)
            captions = [variation.captions()[0] for variation in found]
            assert len({*captions, sample.captions()[0]}) == 5
            for variation in found:
                concept = variation.captions("short")[0].split(" ", 1)[1]
                assert concept in variation.captions()[0]
                names = [{box.text: box for box in each.boxes} for each in (sample, variation)]
                changed = {**names[0], **names[1]}.keys() - (names[0].keys() & names[1].keys())
                assert len(changed) == 2
                away = np.ones((32, 32), bool)
                for box in (
                    (names[0] | names[1])[changed.pop()],
                    (names[0] | names[1])[changed.pop()],
                ):
                    x0, y0, x1, y1 = (round(value) for value in box.xyxy)
                    away[max(0, y0 - 4) : y1 + 4, max(0, x0 - 4) : x1 + 4] = False  # its shadow
                images = [np.asarray(each.images["main"].decode()) for each in (sample, variation)]
                assert (images[0] == images[1])[away].all()


class Broken(WorldVariations):
    """Stops at a sample, or cannot read one."""

    def __init__(self, stop: int | None = None, bad: int | None = None):
        super().__init__(open_source(WORLD))
        self.stop = stop
        self.bad = bad
        self.asked: list[str] = []

    def items(self, sample: Sample) -> Sequence[str]:
        number = int(sample.key[-1])
        self.asked.append(sample.key)
        if number == self.stop:
            raise KeyboardInterrupt
        if number == self.bad:
            raise BadSample("truncated", "half of it")
        return super().items(sample)[: number % 3]


@pytest.mark.parametrize("torn", [False, True])
def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, tiny, torn: bool):
    whole = run(tmp_path / "whole", tiny, Broken())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", tiny, Broken(stop=3))
    journal = tmp_path / "a/groups.jsonl"
    if torn:
        journal.write_text(journal.read_text()[:-20])
    with pytest.raises(InputError, match="holds variations of other settings"):
        run(tmp_path / "a", tiny, Broken(), count=2)
    later = Broken()
    again = run(tmp_path / "a", tiny, later)
    assert again == whole
    assert [key[-1] for key in later.asked] == (["2"] if torn else []) + ["3", "4"]
    name = "variations.json"
    assert (tmp_path / "a" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_what_is_left_out_is_counted(tmp_path: Path, tiny):
    found = run(tmp_path / "a", tiny, Broken(bad=4))
    assert found.dropped == {"no item": 2, "truncated": 1}
    with pytest.raises(InputError, match="variations.json exists"):
        run(tmp_path / "a", tiny)
    with pytest.raises(InputError, match=r"no sample could be varied \(fewer than two variations"):
        run(tmp_path / "b", tiny, count=1)


def test_the_command_varies_a_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["data", "vary", "scenes:number=1:drop=0:size=32", "--count", "3", "--variations", "2"]
    assert main([*words, "--model", "tiny", "--out", str(tmp_path / "a")]) == 0
    assert "variations" in capsys.readouterr().out
    assert len(open_source(str(tmp_path / "a/variations.json"))) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scenes", "--out", "a"], "has no model to score captions by"),
        (["scenes", "--model", "tiny", "--out", "a.json"], "give a folder"),
        (["sentences", "--model", "tiny", "--out", "a"], "cannot be drawn anew"),
        (["scenes:texts=long", "--model", "tiny", "--out", "a"], "has no captions"),
        (["scenes", "--model", "tiny-lm", "--out", "a"], "needs a model with embed_images"),
        (["scenes", "--model", "tiny", "--out", "a", "--by", "x"], "--by and --portrayals go together"),
        (["scenes", "--model", "tiny", "--out", "a", "--steps", "5"], "--steps is of a diffusion"),
        (["glyphs", "--model", "tiny", "--out", "a", "--count", "5"], "--count goes with a world"),
        (["glyphs", "--model", "tiny", "--out", "a"], "cannot be drawn anew"),
    ],
)  # fmt: skip
def test_bad_words_are_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "vary", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a/variations.json").exists()
