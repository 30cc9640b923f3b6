"""Edits as rows of a batch."""

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Plane

from diptych.data.images import Preprocess
from diptych.data.sample import BadSample, Sample, Text
from diptych.data.tokenizers import build
from diptych.data.views import ArrayView, EditsView, collate
from diptych.rng import generator

WORDS = build("bpe:vocab_size=280:context=16", ["a red cup", "a blue cup", "two cups"])


def plane(value):
    return {"main": Plane(np.full((8, 8, 3), value, np.uint8))}


def edit(kind, value, text):
    return Sample(key=kind, source="s", kind=kind, images=plane(value), texts=(Text(text=text),))


SAMPLE = Sample(
    key="a",
    source="s",
    images=plane(0),
    texts=(Text(text="a red cup"),),
    edits=(edit("recolour", 10, "a blue cup"), edit("add", 20, "two cups")),
    arrays={"tokens": np.arange(6, dtype=np.float16).reshape(2, 3)},
)


def edits(sample=SAMPLE, **options):
    view = EditsView(preprocess=Preprocess(size=4), tokenizer=WORDS, **options)
    found = view(sample, generator(0), 0.5)
    assert tuple(found) == view.gives
    return found


def test_edits_are_rows_with_a_mask():
    batch = collate(["a"], [edits(max_edits=3)], {"edits": WORDS})
    assert batch.images["edits"].pixels.shape == (1, 3, 3, 4, 4)
    assert batch.images["edits"].pixels[0, :, 0, 0, 0].tolist() == [10, 20, 0]
    assert batch.fields["edits.there"].tolist() == [[True, True, False]]
    texts = [WORDS.decode(ids) for ids in batch.texts["edits"].ids[0].tolist()]
    assert [text.strip() for text in texts] == ["a blue cup", "two cups", ""]


def test_kinds_choose_and_order_the_rows():
    found = edits(max_edits=2, kinds=("add", "recolour"))
    assert [WORDS.decode(ids) for ids in found["texts.edits"]] == ["two cups", "a blue cup"]
    assert edits(max_edits=2, kinds=("swap",))["fields.edits.there"].tolist() == [False, False]


def test_images_or_texts_may_be_left_out():
    view = EditsView(max_edits=2, tokenizer=WORDS, name="wrong")
    assert view.gives == ("texts.wrong", "fields.wrong.there")
    assert tuple(view(SAMPLE, generator(0), None)) == view.gives


IMAGE_ONLY = Sample(key="e", source="s", kind="add", images=plane(30))
TEXT_ONLY = Sample(key="e", source="s", kind="add", texts=(Text(text="two cups"),))


def test_edits_without_what_the_view_reads_are_no_rows():
    mixed = Sample(key="a", source="s", edits=(IMAGE_ONLY, TEXT_ONLY, *SAMPLE.edits))
    assert edits(mixed, max_edits=4)["fields.edits.there"].tolist() == [True, True, False, False]
    texts = EditsView(max_edits=4, tokenizer=WORDS)(mixed, generator(0), None)
    assert texts["fields.edits.there"].tolist() == [True, True, True, False]
    images = EditsView(max_edits=4, preprocess=Preprocess(size=4))(mixed, generator(0), None)
    assert images["images.edits"][:, 0, 0, 0].tolist() == [30, 10, 20, 0]


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (Sample(key="e", source="s", images=plane(1)), "edit-without-kind"),
        (TEXT_ONLY, "edit 'add', like all others, has no image"),
        (IMAGE_ONLY, "edit 'add', like all others, has no text of role 'caption'"),
    ],
)
def test_a_sample_without_an_edit_of_use_is_damage_that_says_so(one, message):
    with pytest.raises(BadSample, match=message):
        edits(Sample(key="a", source="s", edits=(one,)), max_edits=2)


def test_of_more_edits_than_rows_random_ones_are_drawn_in_training_alone():
    view = EditsView(max_edits=1, tokenizer=WORDS)
    drawn = {
        WORDS.decode(view(SAMPLE, generator(seed), 0.5)["texts.edits"][0]) for seed in range(8)
    }
    assert drawn == {"a blue cup", "two cups"}
    first = {
        WORDS.decode(view(SAMPLE, generator(seed), None)["texts.edits"][0]) for seed in range(8)
    }
    assert first == {"a blue cup"}


def test_an_array_has_its_shape():
    found = ArrayView(array="tokens", shape=(2, 3))(SAMPLE, generator(0), None)["fields.tokens"]
    assert found.dtype == torch.float32
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]
    flat = ArrayView(array="tokens", shape=(6,))(SAMPLE, generator(0), None)["fields.tokens"]
    assert flat.tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(BadSample, match="has 6 numbers, not 8"):
        ArrayView(array="tokens", shape=(2, 4))(SAMPLE, generator(0), None)
