from html import escape

import numpy as np
from tests.viewer.helpers import SCRIPT, Parts

from diptych.data.sample import BadSample, Box, Field, Sample, Text
from diptych.testing import Toy
from diptych.viewer.cards import Ref, card, damaged_card, labels_of
from diptych.viewer.file import Inside

REF = Ref(0, 7)


def test_every_text_of_the_data_is_escaped():
    toy = Toy(1, ["images.main", "masks.main"])[0]
    sample = Sample(
        key=SCRIPT,
        source="",
        images={SCRIPT: toy.images["main"]},
        texts=[Text(text=SCRIPT * 40, role=SCRIPT, attrs={SCRIPT: SCRIPT})],
        labels={"class": 0, SCRIPT: 1.5},
        boxes=[Box(xyxy=(1, 2, 9, 9), text=SCRIPT, image=SCRIPT)],
        masks={SCRIPT: toy.masks["main"]},
        arrays={SCRIPT: np.zeros(3)},
        edits=[Sample(key="e", source="", texts=[Text(text=SCRIPT)], kind=SCRIPT)],
    )
    schema = {"labels.class": Field(kind="int", classes=(SCRIPT,))}
    found = Parts(card(REF, sample, schema, Inside()))
    assert "script" not in found.tags
    assert found.text.count(SCRIPT) >= 50
    lost = Parts(damaged_card(REF, SCRIPT, BadSample(SCRIPT), Inside()))
    assert "script" not in lost.tags
    assert lost.text.count(SCRIPT) == 2


def test_a_card_holds_all_texts_labels_and_boxes():
    toy = Toy(4, ["images.main", "texts.caption", "labels.colour", "boxes"])
    sample = toy[1]
    long = Sample(key="a", source="", texts=[Text(text=f"text {n} " * 60) for n in range(9)])
    html = card(REF, sample, toy.schema(), Inside())
    for caption in sample.captions():
        assert escape(caption) in html
    assert html.count("<rect") >= len(sample.boxes)
    assert 'viewBox="0 0 32 32"' in html
    said = Parts(card(REF, long, {}, Inside())).text
    for text in long.texts:
        assert " ".join(text.text.split()) in " ".join(said.replace(" …", "").split())


def test_missing_labels_are_left_out():
    sample = Sample(
        key="a",
        source="",
        labels={"class": 1, "none": -1, "nan": float("nan"), "price": -2.5, "odd": 9},
    )
    names = {"class": ("cat", "dog"), "none": ("cat",), "odd": ("cat",)}
    schema = {f"labels.{name}": Field(kind="int", classes=own) for name, own in names.items()}
    assert labels_of(sample, schema) == {"class": "dog", "price": "-2.5"}
