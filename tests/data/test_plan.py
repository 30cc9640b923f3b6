"""Plans: pure, complete, independent of ranks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.plan import Distinct, Having, Shuffled, Stratified, Together, kinds_of, labels_of
from diptych.data.sample import BadSample, Field
from diptych.errors import InputError
from diptych.testing import Toy


@given(
    count=st.integers(4, 128),
    batch=st.integers(2, 40),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 5),
)
def test_an_epoch_meets_every_sample_once_in_batches_of_even_size(count, batch, epoch, seed):
    if batch > count:
        return
    batches = Shuffled()(Toy(count), seed, epoch, batch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    sizes = [len(each) for each in batches]
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1


def test_order_follows_from_seed_and_epoch_alone():
    source = Toy(60)
    first = np.concatenate(Shuffled()(source, 1, 2, 16))
    assert np.array_equal(first, np.concatenate(Shuffled()(source, 1, 2, 16)))
    assert np.array_equal(first, np.concatenate(Shuffled()(source, 1, 2, 10))), (
        "order depends on the batch size"
    )
    assert not np.array_equal(first, np.concatenate(Shuffled()(source, 1, 3, 16)))
    assert not np.array_equal(first, np.concatenate(Shuffled()(source, 2, 2, 16)))


@given(batch=st.integers(2, 20), epoch=st.integers(0, 3))
def test_distinct_puts_no_label_twice_in_a_batch_and_loses_no_sample(batch, epoch):
    source = Toy(50, ["labels.colour"])
    labels = labels_of(source, "colour")
    batches = Distinct("colour")(source, 0, epoch, batch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(50))
    for each in batches:
        assert len(set(labels[each])) == len(each) <= batch


@given(
    count=st.integers(4, 60),
    size=st.integers(1, 6),
    batch=st.integers(2, 20),
    epoch=st.integers(0, 3),
)
def test_together_keeps_blocks_whole_and_loses_no_sample(count, size, batch, epoch):
    if not size <= batch <= count:
        return
    batches = Together(size)(Toy(count), 0, epoch, batch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    for each in batches:
        assert len(each) <= batch
        assert set(each) == {at for at in range(count) for one in each if at // size == one // size}


@pytest.mark.parametrize("plan", [Together(3), Distinct("colour")], ids=["together", "distinct"])
def test_each_epoch_and_each_seed_has_an_order_of_its_own(plan):
    source = Toy(60, ["labels.colour"])

    def order(seed, epoch):
        return np.concatenate(plan(source, seed, epoch, 8)).tolist()

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(3)}) == 6


@pytest.mark.parametrize("plan", [Together(3), Distinct("colour")], ids=["together", "distinct"])
def test_other_samples_meet_in_each_epoch(plan):
    source = Toy(60, ["labels.colour"])
    batches = [
        {frozenset(each.tolist()) for each in plan(source, 0, epoch, 8)} for epoch in range(2)
    ]
    assert len(batches[0] & batches[1]) < len(batches[0]) / 2


def test_the_rounds_of_distinct_come_in_another_order_in_each_epoch():
    source = Toy(60, ["labels.colour"])  # seven rounds of 8 and one of 4
    places = {
        [len(each) for each in Distinct("colour")(source, 0, epoch, 8)].index(4)
        for epoch in range(6)
    }
    assert len(places) > 1


def test_blocks_that_no_batch_holds_are_refused():
    with pytest.raises(InputError, match="blocks of 9 samples do not fit into a batch of 8"):
        Together(9)(Toy(50), 0, 0, 8)


def test_distinct_names_a_label_that_the_source_lacks():
    with pytest.raises(InputError, match="no label 'colour'"):
        Distinct("colour")(Toy(50), 0, 0, 8)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match="batch size 60 is larger than the 50 samples of toy"):
        Shuffled()(Toy(50), 0, 0, 60)


class Some(Toy):
    """Every third sample has no reference, and one cannot be read."""

    def __init__(self, count, optional=True):
        super().__init__(count, ["images.main", "images.reference"])
        self.optional, self.read = optional, 0

    def schema(self):
        return {**super().schema(), "images.reference": Field(kind="image", optional=self.optional)}

    def __getitem__(self, index):
        self.read += 1
        if index == 4:
            raise BadSample("utf8")
        sample = super().__getitem__(index)
        return replace(sample, images={"main": sample.images["main"]}) if index % 3 == 0 else sample


def test_having_leaves_out_samples_without_the_image_and_keeps_blocks_of_the_others():
    source, plan = Some(24), Having("reference")
    batches = plan(source, 0, 0, 5)
    assert sorted(np.concatenate(batches).tolist()) == [at for at in range(24) if at % 3]
    assert max(map(len, batches)) <= 5
    seen = source.read
    assert not np.array_equal(np.concatenate(plan(source, 0, 1, 5)), np.concatenate(batches))
    assert source.read == seen == 24, "each sample is looked at once, whatever the epoch"
    pairs = Having("reference", Together(2))(Some(24), 0, 0, 6)
    assert sorted(np.concatenate(pairs).tolist()) == [at for at in range(24) if at % 3]
    for each in pairs:
        assert {at + 1 if at % 3 == 1 else at - 1 for at in each.tolist()} == set(each.tolist())


def test_having_reads_nothing_where_all_have_the_image_and_refuses_where_none_has():
    source = Some(24, optional=False)
    assert sorted(np.concatenate(Having("reference")(source, 0, 0, 5)).tolist()) == list(range(24))
    assert source.read == 0
    with pytest.raises(InputError, match="no sample of toy has an image of role 'reference'"):
        Having("reference")(Some(1), 0, 0, 1)
    with pytest.raises(InputError, match="batch size 17 is larger than the 16 samples of toy"):
        Having("reference")(Some(24), 0, 0, 17)


@given(
    count=st.integers(6, 90),
    batch=st.integers(2, 30),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 3),
)
def test_stratified_gives_every_batch_its_share_of_each_kind(count, batch, epoch, seed):
    if batch > count:
        return
    source = Toy(count, ["images.main", "texts.caption"], lacked=["images.main"])
    with_image = np.array(["main" in source[index].images for index in range(count)])
    assert kinds_of(source, "images.main").tolist() == with_image.tolist()
    batches = Stratified("images.main")(source, seed, epoch, batch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    for each in batches:
        assert len(each) <= batch
        assert abs(with_image[each].sum() - with_image.mean() * len(each)) <= 2


def test_stratified_by_a_label_shuffles_each_kind_anew():
    source = Toy(64, ["labels.colour"])
    first, second = (
        np.concatenate(Stratified("labels.colour")(source, 0, epoch, 16)) for epoch in (0, 1)
    )
    assert not np.array_equal(first, second)
    assert np.array_equal(first, np.concatenate(Stratified("labels.colour")(source, 0, 0, 16)))
    colours = labels_of(source, "colour")
    for each in Stratified("labels.colour")(source, 0, 0, 16):
        assert np.bincount(colours[each], minlength=8).min() >= 1
    with pytest.raises(InputError, match="no label 'size'"):
        Stratified("labels.size")(source, 0, 0, 16)
