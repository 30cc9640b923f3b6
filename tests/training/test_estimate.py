"""The estimate of cost before a run: in proportion, and about right."""

import pytest
from tests.training.helpers import IMAGE, TEXT

from diptych.data.sample import Source
from diptych.errors import InputError
from diptych.testing import Toy
from diptych.training.config import resolve
from diptych.training.estimate import estimate


def of(source: Source, batch_size: int):
    config = resolve("clip", {"train": "toy"}, image_tower=IMAGE, text_tower=TEXT, recipe={"batch_size": batch_size})
    return estimate(config, {"train": source})


def test_memory_grows_with_the_batch_and_state_with_the_parameters():
    small, large = of(Toy(128), 16), of(Toy(128), 64)
    assert large.batch_bytes == pytest.approx(4 * small.batch_bytes, rel=0.1)
    assert large.parameters == small.parameters
    assert small.state_bytes == 16 * small.parameters
    # A block of width D keeps a few times 20 D floats a token; this one has 5 image tokens and up to 13 of text.
    assert 18 * 20 * 32 * 4 * 16 / 4 < small.batch_bytes < 18 * 20 * 32 * 4 * 16 * 4
    assert 0 < small.step_seconds < small.epoch_seconds


def test_a_batch_is_never_above_the_data():
    assert of(Toy(20), 64).batch_size == 20


def test_a_source_that_lacks_a_field_is_refused():
    with pytest.raises(InputError, match="no images.main"):
        of(Toy(20, ["texts.caption"]), 8)
