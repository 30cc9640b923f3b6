"""The estimate of cost before a run: in proportion, and about right."""

import pytest
from tests.factories import IMAGE, TEXT
from tests.training.helpers import peak

from diptych.data.sample import Source
from diptych.errors import InputError
from diptych.testing import Toy
from diptych.training.config import resolve
from diptych.training.estimate import estimate


def of(
    source: Source,
    batch_size: int,
    chunk: int | None = None,
    image: str = IMAGE,
    optimizer: str = "muon",
):
    config = resolve(
        "clip",
        {"train": "toy"},
        image_tower=image,
        text_tower=TEXT,
        tokenizer="bpe:vocab_size=320:context=24",
        embed_dim=32,
        recipe={"batch_size": batch_size, "chunk": chunk, "optimizer": optimizer},
    )
    return estimate(config, {"train": source})


def test_memory_grows_with_the_batch_and_state_with_the_parameters():
    small, large = of(Toy(128), 16), of(Toy(128), 64)
    assert large.batch_bytes == pytest.approx(4 * small.batch_bytes, rel=0.1)
    assert large.parameters == small.parameters
    # A block of width D keeps a few times 20 D floats a token; this one has 5 image tokens and up
    # to 13 of text.
    assert 18 * 20 * 32 * 4 * 16 / 4 < small.batch_bytes < 18 * 20 * 32 * 4 * 16 * 4
    assert 0 < small.step_seconds < small.epoch_seconds


@pytest.mark.parametrize(("optimizer", "moments"), [("adamw", 2), ("lion", 1)])
def test_state_is_weights_gradients_and_what_the_optimiser_keeps(optimizer, moments):
    found = of(Toy(32), 16, optimizer=optimizer)
    each = 4 * (2 + moments)
    assert (
        each * found.parameters <= found.state_bytes < (each + 0.1) * found.parameters
    )  # AdamW also counts steps


@pytest.mark.parametrize("batch_size", [16, 64, 128])
@pytest.mark.parametrize("chunk", [None, 16, 64, 200])
def test_memory_is_what_a_step_was_seen_to_hold(chunk, batch_size):
    """Up to 1.5 times that, as it adds the gradients of the features of pieces, which autograd
    holds apart."""
    found = of(Toy(128), batch_size, chunk, IMAGE.replace("depth=1", "depth=3"))
    assert found.chunk == chunk
    assert 0.95 < found.batch_bytes / peak(chunk, batch_size) < 1.5


def test_weights_are_no_part_of_a_batch_however_wide_the_tower():
    """A layer keeps its weight for backward, transposed; its bytes are no sample's."""
    found = of(Toy(4), 4, image=IMAGE.replace("width=32", "width=256"))
    assert found.batch_bytes < 0.3 * 4 * found.parameters


def test_a_tower_that_cannot_be_cut_is_refused_before_the_probe():
    with pytest.raises(InputError, match="--chunk cannot cut it"):
        of(Toy(20), 8, 64, image="timm:resnet18")


def test_a_batch_is_never_above_the_data():
    assert of(Toy(20), 64).batch_size == 20


def test_a_source_that_lacks_a_field_is_refused():
    with pytest.raises(InputError, match="no images.main"):
        of(Toy(20, ["texts.caption"]), 8)


def test_columns_that_a_stage_prepares_are_made_for_the_probe():
    config = resolve(
        "urbanclip",
        {"train": "toy"},
        image_tower=IMAGE,
        text_tower="text:width=32:depth=1:heads=2:pooling=cls",
        tokenizer="bpe:vocab_size=320:context=24",
        embed_dim=32,
        recipe={"batch_size": 16},
    )
    found = estimate(config, {"train": Toy(64)})
    assert found.batch_size == 16
    assert found.epoch_seconds == pytest.approx(4 * found.step_seconds)
