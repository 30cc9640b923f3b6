"""Pointing: images of four colours, texts that name one, and a model that sees colours as they
are."""

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Plane, Rows
from tests.evaluation.suites.helpers import COLOURS, Seer

from diptych.data.sample import Field, Sample, Text
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.pointing import ground, pointing
from diptych.models.dense import patch_vectors

FIELDS = {"texts.long": Field(kind="text"), "masks.instance": Field(kind="mask")}


def sample(key, *cells, said=("red", "green", "blue"), size=8):
    """Cells in reading order; the object of number n is where the n-th colour of COLOURS stands,
    white is ground."""
    names = list(COLOURS)
    half = size // 2
    pixels, mask = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.uint8)
    for at, name in enumerate(cells):
        where = np.s_[at // 2 * half : (at // 2 + 1) * half, at % 2 * half : (at % 2 + 1) * half]
        pixels[where] = COLOURS[name]
        mask[where] = 0 if name == "white" else names.index(name) + 1
    texts = [
        Text(text=f"it is {name}", role="long", attrs={"objects": (names.index(name),)})
        for name in said
    ]
    return Sample(
        key=key,
        source="rows",
        images={"main": Plane(pixels)},
        texts=texts,
        masks={"instance": Plane(mask)},
    )


ROWS = Rows(
    [sample("a", "red", "green", "blue", "white"), sample("b", "white", "blue", "red", "green")],
    fields=FIELDS,
)


def test_who_sees_colours_points_at_all_of_them():
    found = evaluate(Seer(), ROWS, ["pointing"])["pointing"]
    assert (found["pointing"], found["n"]) == (1.0, 6)
    assert found["chance_pointing"] == found["chance_iou"] == 0.25
    assert 0.5 <= found["iou"] <= 1


def test_a_map_of_the_model_points_too():
    class Heated(Seer):
        def heat(self, images, texts):
            """The similarities, of texts in which red is green."""
            patches, grid = patch_vectors(self, images)
            asked = self.embed_texts([text.replace("red", "green") for text in texts])
            return (patches @ asked.T).mT.unflatten(2, grid)

    assert pointing(Heated(), ROWS)["pointing"] == 1
    found = pointing(Heated(), ROWS, by="heat")
    assert found["pointing"] == pytest.approx(4 / 6)
    assert found["protocol"] != pointing(Heated(), ROWS)["protocol"]
    with pytest.raises(InputError, match="unknown way to point 'hat'"):
        pointing(Heated(), ROWS, by="hat")  # type: ignore[arg-type]


def test_who_takes_red_for_green_misses_both():
    swapped = COLOURS | {"red": COLOURS["green"], "green": COLOURS["red"]}
    found = pointing(Seer(swapped), ROWS)
    assert found["pointing"] == pytest.approx(2 / 6)


def test_ties_are_no_hits_and_light_everything():
    class Blind(Seer):
        def embed_texts(self, texts):
            return torch.zeros(len(texts), 3)

    found = pointing(Blind(), ROWS)
    assert found["pointing"] == 0
    assert found["iou"] == found["chance_iou"]


def test_texts_of_no_object_of_several_or_of_a_hidden_one_do_not_count():
    image = sample("a", "red", "green", "white", "white", said=("red",))
    texts = [
        *image.texts,
        Text(text="all red", role="long"),
        Text(text="a red", role="long", attrs={"objects": ()}),
        Text(text="red and green", role="long", attrs={"objects": (0, 1)}),
        Text(text="hidden blue", role="long", attrs={"objects": (2,)}),
        Text(text="caption of red", attrs={"objects": (0,)}),
    ]
    held = Sample(key="a", source="rows", images=image.images, texts=texts, masks=image.masks)
    assert pointing(Seer(), Rows([held], fields=FIELDS))["n"] == 1
    with pytest.raises(InputError, match="speaks of one object that is seen"):
        pointing(Seer(), Rows([sample("a", "white", "white", "white", "white")], fields=FIELDS))


def test_a_image_without_its_mask_is_counted():
    lost = Sample(key="c", source="rows", images=ROWS[0].images, texts=ROWS[0].texts)
    found = pointing(Seer(), Rows([*ROWS.samples, lost], fields=FIELDS))
    assert found["bad"] == {"no-mask": 1}
    assert found["n"] == 6


def test_ground_gives_a_map_for_each_text():
    pixels = torch.from_numpy(np.array(ROWS[0].images["main"].decode())).permute(2, 0, 1)[None]

    class Whole(Seer):
        def represent(self, images, *, batch_size=64):
            return super().represent(images, batch_size=batch_size)

    maps = ground(Whole(), pixels, ["red", "blue"], sigma=0.9)
    assert maps.shape == (2, 2, 2)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(2))
    assert (maps[0].argmax().item(), maps[1].argmax().item()) == (0, 2)
    assert maps[0, 0, 0] == 1


def test_a_tower_without_positions_and_a_role_that_is_not_there_are_refused():
    class Pooled(Seer):
        def represent(self, images, *, batch_size=64):
            from dataclasses import replace

            return replace(super().represent(images, batch_size=batch_size), grid=None)

    with pytest.raises(InputError, match="no positions to point at"):
        pointing(Pooled(), ROWS)
    with pytest.raises(InputError, match="no texts of role 'web'"):
        pointing(Seer(), ROWS, role="web")
