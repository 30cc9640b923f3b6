"""Labels from documents: cosines against loops, both kinds of thresholds, and the table that is
written."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.evaluation.helpers import Dot, Fake, vectors

from diptych.data.sample import Field, Sample, Text
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.adapt.visualness.pages import Bar, label, write
from diptych.methods.store import load


class Model(Fake):
    """Fake, with the batch size that a real model has by default."""

    def embed_images(self, images, *, batch_size=64):
        return super().embed_images(images, batch_size=batch_size)


class Document:
    """Rows of a document: (page, image or None, texts)."""

    name = "document"

    def __init__(self, *rows, page="page_id"):
        self.samples = [
            Sample(
                key=str(at),
                source="document",
                images={} if image is None else {"main": Dot(image)},
                texts=[
                    *(Text(text=text) for text in texts),
                    *([Text(text=name, role=page)] if name else []),
                ],
            )
            for at, (name, image, texts) in enumerate(rows)
        ]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]

    def keys(self):
        return [sample.key for sample in self.samples]

    def schema(self):
        return {
            "images.main": Field(kind="image", optional=True),
            "texts.caption": Field(kind="text", optional=True),
        }


ROWS = (
    ("a", 1, []),
    ("b", 3, ["of b 5"]),
    ("a", None, ["first 2", "second 6"]),
    ("a", 4, ["third 7"]),
    ("c", None, ["no image on this page 8"]),
    ("", 0, ["a page of its own 9"]),
)


def expected(model):
    """By loops: of each sentence the greatest cosine and which image has it."""
    pages = {"a": ([1, 4], [2, 6, 7]), "b": ([3], [5]), "5": ([0], [9])}
    found = {}
    for images, said in pages.values():
        for text in said:
            cosines = {image: float(model.vectors[text] @ model.vectors[image]) for image in images}
            best = max(cosines, key=cosines.__getitem__)
            found[text] = (best, cosines[best])
    return found


@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_a_sentence_is_compared_with_every_image_of_its_page_and_no_other(at_once, monkeypatch):
    monkeypatch.setattr("diptych.methods.adapt.visualness.pages.AT_ONCE", at_once)
    source, model = Document(*ROWS), Model(vectors(3))
    found = label(source, model, positive="0.2", negative="0.1")
    wanted = expected(model)
    assert found.alone == 1
    numbers = [int(text.split()[-1]) for text in found.texts]
    assert sorted(numbers) == sorted(wanted)
    for number, cosine, (row, role) in zip(numbers, found.cosines, found.nearest, strict=True):
        best, value = wanted[number]
        assert cosine == pytest.approx(value, abs=1e-6)
        assert source[row].images[role].number == best
    assert found.visual.tolist() == [wanted[number][1] > 0.2 for number in numbers]
    assert found.other.tolist() == [wanted[number][1] < 0.1 for number in numbers]


def test_shares_are_those_of_the_sentences():
    rows = [(f"p{at}", at % 10, [f"text {at // 10}"]) for at in range(100)]
    found = label(Document(*rows), Model(vectors(1)), positive="10%", negative="25%")
    assert int(found.visual.sum()) <= 10
    assert int(found.other.sum()) <= 25
    assert (
        found.cosines[found.visual].min()
        > found.positive
        > found.negative
        > found.cosines[found.other].max()
    )
    assert found.positive == pytest.approx(np.quantile(found.cosines, 0.9))


def test_long_texts_are_cut_into_sentences_and_one_stays_as_it_is():
    found = label(
        Document(("a", 1, ["One thing 2. Another 3. ", "A single one 4."])),
        Model(vectors(0)),
        positive="50%",
        negative="50%",
    )
    assert found.texts == ["One thing 2", "Another 3", "A single one 4."]


def test_damaged_images_are_counted_and_the_page_does_without():
    source = Document(("a", 1, ["text 2"]), ("a", 3, []), ("b", 4, ["text 5"]))
    for at in (1, 2):
        source.samples[at] = replace(
            source[at], images={"main": Dot(source[at].images["main"].number, "truncated")}
        )
    found = label(source, Model(vectors(0)), positive="0.9", negative="-0.9")
    assert found.damaged == {"1": "truncated", "2": "truncated"}
    assert (found.texts, found.alone) == (["text 2"], 1)


def test_the_table_is_one_that_sources_read(tmp_path):
    """On disk: pages as rows, images in files; and back."""
    lines = []
    for at, colour in enumerate(["red", "blue", "green"]):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{at}.png")
        lines += [{"image": f"{at}.png", "page_id": at // 2}]
        lines += [
            {"text": f"{word} number {at}", "page_id": at // 2}
            for word in ("a cat", "an idea", "a red bus")
        ]
    (tmp_path / "pages.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), "utf-8"
    )
    source = open_source(str(tmp_path / "pages.jsonl"))
    found = label(source, load("tiny"), positive="30%", negative="50%")
    out = tmp_path / "labels" / "auto.jsonl"
    count = write(found, source, out)
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert len(rows) == count < 9
    assert {row["label"] for row in rows} == {0, 1}
    for row in rows:
        assert set(row) == {"text", "image", "label", "page_id"}
        assert (row["image"] is None) == (row["label"] == 0)
    back = open_source(str(out))
    for index in range(len(back)):
        sample = back[index]
        assert bool(sample.images) == bool(sample.labels["label"])
        for image in sample.images.values():
            assert image.decode().size == (64, 64)


def test_images_that_are_no_files_are_written_beside_the_table(tmp_path):
    source = open_source("scenes:count=8:number=1:texts=caption+hypothesis")
    found = label(source, load("tiny"), positive="20%", negative="20%", role="*")
    write(found, source, tmp_path / "auto.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "auto.jsonl").read_text("utf-8").splitlines()]
    images = {row["image"] for row in rows if row["label"]}
    assert {f"auto/{path.name}" for path in (tmp_path / "auto").iterdir()} == images
    key = next(row["page_id"] for row in rows if row["label"])
    shown = Image.open(
        tmp_path / next(row["image"] for row in rows if row["page_id"] == key and row["label"])
    )
    own = source[list(source.keys()).index(key)].images["main"].decode()
    assert np.array_equal(np.asarray(shown.convert("RGB")), np.asarray(own.convert("RGB")))


@pytest.mark.parametrize("text", ["", "many", "0%", "100%", "1.5", "-2", "nan"])
def test_what_is_no_threshold_is_refused(text):
    with pytest.raises(InputError, match="is no threshold"):
        Bar.of(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"positive": "0.1", "negative": "0.2"},
            "visual would be above 0.100 and not visual below 0.200",
        ),
        ({"role": "web"}, "no page of document has both an image and a text of role 'web'"),
    ],
)
def test_settings_that_label_nothing_right_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        label(Document(*ROWS), Model(vectors(0)), **settings)
