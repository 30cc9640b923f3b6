"""The loader: the same batches for any number of workers and ranks, whole epochs, damage counted
and replaced."""

import gc
from functools import partial

import numpy as np
import psutil
import pytest
import torch
from tests.data.helpers import Still, held

from diptych.data import loader as loading
from diptych.data.images import Preprocess
from diptych.data.plan import Shuffled
from diptych.data.sample import BadSample, Field
from diptych.data.views import ImageView
from diptych.errors import InputError
from diptych.testing import Toy

Loader = partial(loading.Loader, steps=10)  # as in training: views vary their images
VIEWS = [ImageView(preprocess=Preprocess(size=16))]


class Leaky(Toy):
    """Some samples cannot be read."""

    bad = frozenset({3, 11})

    def __getitem__(self, index):
        if index in self.bad:
            raise BadSample("truncated", "cut short")
        return super().__getitem__(index)


class HalfGone(Leaky):
    bad = frozenset(range(0, 40, 2))


class Hopeless(Leaky):
    bad = frozenset(range(128))


def epoch(loader, number=0, start=0):
    batches = list(loader.epoch(number, start))
    return [key for batch in batches for key in batch.keys], torch.cat(
        [batch.image.pixels for batch in batches]
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_order_and_pixels_do_not_depend_on_workers(workers):
    keys, pixels = epoch(Loader(Toy(40), VIEWS, Shuffled(), 16, workers=0))
    others = epoch(Loader(Toy(40), VIEWS, Shuffled(), 16, workers=workers))
    assert keys == others[0]
    assert torch.equal(pixels, others[1])
    assert sorted(keys) == list(Toy(40).keys())


class Listed:
    """A plan that gives what it is told to."""

    def __init__(self, batches):
        self.batches = batches

    def __call__(self, source, seed, epoch, batch):
        return self.batches


UNEVEN = [np.arange(5), np.arange(5, 7), np.array([7])]


def test_batches_that_are_too_small_are_left_out_and_told_once(caplog):
    loader = Loader(Toy(8), VIEWS, Listed(UNEVEN), 5, least=2)
    for number in range(2):
        assert [len(batch) for batch in loader.epoch(number)] == [5, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "toy: an epoch leaves out 1 samples, in batches of fewer than 2"
    ]
    ranks = [Loader(Toy(8), VIEWS, Listed(UNEVEN), 5, least=3, rank=r, ranks=3) for r in range(3)]
    assert [[len(batch) for batch in each.epoch(0)] for each in ranks] == [[2], [2], [1]]
    assert [len(rows) for rows in Loader(Toy(8), VIEWS, Listed(UNEVEN), 5).batches(0)] == [5, 2, 1]
    even = Loader(Toy(8), VIEWS, Listed([*np.arange(8).reshape(2, 4)]), 5, least=5)
    assert [len(rows) for rows in even.batches(0)] == [4, 4]
    with pytest.raises(InputError, match="largest batch that Listed gives of toy has 1 samples"):
        Loader(Toy(8), VIEWS, Listed([[0], [1]]), 5, least=2).batches(0)


def test_what_a_plan_may_give():
    rows = np.arange(8).reshape(2, 4)
    assert len(Loader(Toy(8), VIEWS, Listed(rows), 4).batches(0)) == 2
    for wrong, shown in (
        ([rows], "int64 of shape .2, 4."),
        (np.arange(8), "int64 of shape"),
        ([[0.5]], "float64"),
        ([[0, 8]], "rows 0 to 8"),
    ):
        with pytest.raises(InputError, match=f"the plan Listed gives a batch of {shown}"):
            Loader(Toy(8), VIEWS, Listed(wrong), 4).batches(0)


def test_ranks_share_out_the_same_batches_with_the_same_pixels():
    keys, pixels = epoch(Loader(Toy(41), VIEWS, Shuffled(), 15))
    parts = [
        list(Loader(Toy(41), VIEWS, Shuffled(), 15, rank=rank, ranks=4).epoch(0))
        for rank in range(4)
    ]
    joined = [key for step in zip(*parts, strict=True) for batch in step for key in batch.keys]
    assert joined == keys
    assert torch.equal(
        pixels,
        torch.cat([batch.image.pixels for step in zip(*parts, strict=True) for batch in step]),
    )


def test_augmentation_differs_between_positions_and_epochs():
    loader = Loader(Toy(16), VIEWS, Shuffled(), 16)
    first, again = epoch(loader, 0), epoch(loader, 1)
    order = [again[0].index(key) for key in first[0]]
    assert not torch.equal(first[1], again[1][order])


def test_equal_images_of_one_epoch_are_augmented_differently():
    (batch,) = Loader(Still(16), VIEWS, Shuffled(), 16).epoch(0)
    assert len(torch.unique(batch.image.flat, dim=0)) == 16
    views = [ImageView(preprocess=Preprocess(size=16), count=2)]
    (batch,) = Loader(Still(16), views, Shuffled(), 16).epoch(0)
    assert len(torch.unique(batch.image.flat, dim=0)) == 32, "the views of one image are the same"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_replacement_is_no_other_sample_of_its_batch(workers):
    """Half of a small source is damaged: still no sample meets itself while there are others
    left."""
    for number in range(6):
        for batch in Loader(HalfGone(40), VIEWS, Shuffled(), 10, workers=workers).epoch(number):
            assert len(set(batch.keys)) == len(batch.keys) == 10


@pytest.mark.parametrize("start", [1, 2])
def test_an_epoch_can_begin_at_any_batch(start):
    loader = Loader(Toy(40), VIEWS, Shuffled(), 16)
    sizes = [len(batch) for batch in loader.batches(0)]
    keys, pixels = epoch(loader)
    rest = epoch(loader, 0, start)
    assert rest[0] == keys[sum(sizes[:start]) :]
    assert torch.equal(rest[1], pixels[sum(sizes[:start]) :])


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_samples_are_counted_once_and_replaced(workers):
    loader = Loader(Leaky(40), VIEWS, Shuffled(), 16, workers=workers)
    for number in range(2):
        keys, _ = epoch(loader, number)
        assert len(keys) == 40
        assert not {"003", "011"} & set(keys)
    assert loader.damage.reasons == {"truncated": 2}


def test_replacements_do_not_depend_on_workers():
    assert (
        epoch(Loader(Leaky(40), VIEWS, Shuffled(), 16))[0]
        == epoch(Loader(Leaky(40), VIEWS, Shuffled(), 16, workers=2))[0]
    )


def test_data_without_one_good_sample_is_an_error_not_a_hang():
    with pytest.raises(InputError, match="samples in a row are damaged"):
        epoch(Loader(Hopeless(40), VIEWS, Shuffled(), 16))


def test_fewer_samples_than_ranks_in_a_batch_is_refused():
    with pytest.raises(InputError, match="smaller than the 4 ranks"):
        Loader(Toy(40), VIEWS, Shuffled(), 3, ranks=4)


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_stays_flat_over_epochs_with_persistent_workers(workers):
    """What a process alone holds grows by less than 2 kB a sample: neither pixels nor tokens are
    kept."""
    others = set(psutil.Process().children())
    loader = Loader(Still(128), VIEWS, Shuffled(), 32, workers=workers)
    sizes = {}
    # a collection in a worker touches, and so copies, all that it got from this process
    gc.freeze()
    for number in range(44):
        for _ in loader.epoch(number):
            pass
        if number in (3, 43):
            sizes[number] = held(set(psutil.Process().children()) - others)
    gc.unfreeze()
    assert (sizes[43] - sizes[3]) / (40 * 128) < 2000


class Priced(Toy):
    """A source whose label is not called `class`."""

    def schema(self):
        return {
            "images.main": Field(kind="image"),
            "labels.category": Field(kind="int", classes=("cup", "pot")),
        }


def test_a_label_that_is_lacking_names_the_option_and_the_labels_there_are():
    with pytest.raises(
        InputError,
        match=r"no labels\.class, which maple needs; .* another of its labels: category$",
    ):
        loading.require(Priced(), ["images.main", "labels.class"], "maple")
    with pytest.raises(InputError, match="name a source, column or role that has it"):
        loading.require(Priced(), ["texts.caption"], "clip")


class Ragged:
    """A view with rows of another number for each sample."""

    reads = ()
    gives = ("fields.rows",)

    def __call__(self, sample, rng, progress):
        return {"fields.rows": torch.zeros(1 + int(sample.key), 2)}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_view_is_one_line_from_a_worker_too(workers):
    loader = Loader(Toy(8), [Ragged()], Shuffled(), 4, workers=workers)
    with pytest.raises(InputError) as caught:
        next(iter(loader.epoch(0)))
    assert str(caught.value).startswith("fields.rows is (")
    assert "\n" not in str(caught.value)
