"""Words in boxes: the probe on a model whose patches are known, and what it counts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.factories import make_method

from diptych.data.images import Preprocess
from diptych.data.sample import Box, Field, Sample
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.words import words
from diptych.methods.store import to_model
from diptych.towers.encoded import Encoded

GREYS = {"ink": 20, "lake": 90, "rope": 160, "ship": 230}


class Drawn:
    """Four boxes of 8 x 8 pixels in a row, each in the grey of its word."""

    def __init__(self, said):
        self.said = said

    def decode(self, at_least=None):
        row = np.repeat([GREYS[word] for word in self.said], 8)
        grey = np.broadcast_to(row[None, :, None], (8, 32, 3)).astype(np.uint8)
        return Image.fromarray(grey)


class Pages:
    """Pages of four words in another order each."""

    name = "pages"

    def __init__(self, count=24, seed=0, vocabulary=tuple(GREYS)):
        rng = np.random.default_rng(seed)
        self.rows = [list(rng.permutation(vocabulary)[:4]) for _ in range(count)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        boxes = [
            Box(xyxy=(8 * at, 0, 8 * at + 8, 8), text=str(word))
            for at, word in enumerate(self.rows[index])
        ]
        images = {"main": Drawn(self.rows[index])}
        return Sample(key=self.keys()[index], source="", images=images, boxes=boxes)

    def keys(self):
        return [f"{at}" for at in range(len(self.rows))]

    def schema(self):
        return {"images.main": Field(kind="image"), "boxes": Field(kind="box")}


class Reader:
    """Its patches are the means of the pixels of 2 x 8 cells, of 4 pixels by 1 of 8 x 8."""

    name = "reader"
    precision = "float32"
    preprocess = Preprocess(size=8)

    def represent(self, images, *, batch_size=64, route="tokens"):
        cells = torch.nn.functional.adaptive_avg_pool2d(images.float(), (2, 8))
        tokens = cells.flatten(2).mT
        return Encoded(tokens, tokens.mean(1), grid=(2, 8))


def test_words_that_a_patch_shows_are_found():
    found = words(Reader(), Pages(seed=1), train=Pages(seed=2), batch_size=5)
    assert found["top1"] == 1.0
    assert (found["n"], found["n_train"], found["classes"]) == (96, 96, 4)
    assert found["chance_top1"] == 0.25
    assert found["unseen"] == 0


def test_words_of_another_place_are_not():
    class Turned(Pages):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            order = np.random.default_rng(index).permutation(4)
            said = [sample.boxes[at].text for at in order]
            pairs = zip(sample.boxes, said, strict=True)
            return replace(sample, boxes=[replace(box, text=text) for box, text in pairs])

    found = words(Reader(), Pages(60, seed=1), train=Turned(60, seed=2))
    assert found["top1"] < 0.6


def test_a_word_that_training_lacks_counts_as_wrong():
    train = Pages(40, seed=2)
    train.rows = [[word if word != "ship" else "ink" for word in row] for row in train.rows]
    found = words(Reader(), Pages(seed=1), train=train)
    assert found["unseen"] == 0.25
    assert found["classes"] == 3
    assert found["top1"] <= 0.75


def test_without_pages_to_learn_from_four_fifths_are_and_samples_without_words_are_told():
    class Gaps(Pages):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return replace(sample, boxes=[]) if index < 2 else sample

    found = evaluate(Reader(), Gaps(30), ["words"])["words"]
    assert found["n"] + found["n_train"] == 4 * 28
    assert found["bad"] == {"no-words": 2}
    assert found["top1"] == 1.0


def test_what_has_no_boxes_or_no_positions_is_refused():
    class Plain(Pages):
        def schema(self):
            return {"images.main": Field(kind="image")}

    with pytest.raises(InputError, match="has no boxes"):
        words(Reader(), Plain())

    class Pooled(Reader):
        def represent(self, images, **options):
            return replace(super().represent(images, **options), grid=None)

    with pytest.raises(InputError, match="pools its positions away"):
        words(Pooled(), Pages())


def test_any_image_tower_with_positions_is_probed():
    method = make_method("clip")
    preprocess = method.model.image.preprocess.to_dict()
    model = to_model(method.model, method.make.tokenizer, preprocess, name="clip")
    assert words(model, Pages(30))["n"] == 24
