"""Plans: pure, complete, independent of ranks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.columns import WithColumns
from diptych.data.plan import (
    AtLeast,
    Distinct,
    Fixed,
    Grouped,
    Having,
    InOrder,
    Mined,
    OneGroup,
    PerClass,
    Shuffled,
    Stratified,
    Together,
    Weighted,
    kinds_of,
    labels_of,
)
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
    with pytest.raises(InputError, match="no labels.colour"):
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
    with pytest.raises(InputError, match="no labels.size"):
        Stratified("labels.size")(source, 0, 0, 16)


def test_stratified_by_some_values_gives_every_batch_both_kinds():
    source = Toy(60, ["labels.colour"])
    marked = np.isin(labels_of(source, "colour"), (0, 3))
    plan = Stratified("labels.colour", values="red+3", min_samples=2)
    batches = plan(source, 0, 0, 12)
    assert sorted(np.concatenate(batches).tolist()) == list(range(60))
    assert all(abs(marked[each].sum() - len(each) * marked.mean()) <= 1 for each in batches)
    with pytest.raises(InputError, match="16 of the 60 samples of toy have it; raise --batch-size"):
        plan(source, 0, 0, 6)
    with pytest.raises(InputError, match="every batch needs 2 samples with labels.colour -1"):
        Stratified("labels.colour", values=-1, min_samples=2)(source, 0, 0, 12)
    with pytest.raises(InputError, match="did you mean 'red'"):
        Stratified("labels.colour", values="rod")(source, 0, 0, 12)


def labelled(values, **columns):
    """A source whose label `y` has these values, with other columns."""
    named = {"y": np.asarray(values), **{name: np.asarray(rows) for name, rows in columns.items()}}
    return WithColumns(Toy(len(values), ["labels.y"]), named)


LABELS = st.lists(st.integers(-1, 5), min_size=8, max_size=90)


@given(values=LABELS, batch=st.integers(2, 12), epoch=st.integers(0, 2))
def test_one_group_gives_whole_batches_of_one_value_in_turns(values, batch, epoch):
    source = labelled(values)
    counts = np.bincount(np.array(values) + 1, minlength=7)[1:]
    if counts.max() < batch:
        with pytest.raises(InputError, match=f"most frequent value has {counts.max()} samples"):
            OneGroup("y")(source, 0, epoch, batch)
        return
    batches = OneGroup("y")(source, 0, epoch, batch)
    met = np.concatenate(batches)
    assert len(set(met.tolist())) == len(met), "a sample comes once"
    assert all(len(each) == batch for each in batches)
    groups = [np.unique(np.array(values)[each]).tolist() for each in batches]
    assert all(len(group) == 1 for group in groups)
    turns = [group[0] for group in groups]
    expected = [value for turn in range(90) for value in range(6) if counts[value] // batch > turn]
    assert turns == expected


def test_one_group_leaves_out_the_rest_of_a_group():
    """Groups of 10 and 4 samples in batches of 4: the order is 0, 1, 0, and two are left out."""
    values = np.array([0] * 10 + [1] * 4)
    batches = OneGroup("y")(labelled(values), 0, 0, 4)
    assert [values[each].tolist() for each in batches] == [[0] * 4, [1] * 4, [0] * 4]
    assert {*values[np.concatenate(OneGroup("y")(labelled(values), 0, 0, 5))]} == {0}
    with pytest.raises(InputError, match="value 1 of labels.y has 4 samples .* batch of 5"):
        OneGroup("y", every=True)(labelled(values), 0, 0, 5)


@given(
    values=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    count=st.integers(1, 3),
    batch=st.integers(6, 20),
    epoch=st.integers(0, 2),
)
def test_at_least_gives_every_sample_positives_and_loses_none(values, count, batch, epoch):
    values = np.array(values * 3 + [-1])
    batches = AtLeast("y", count)(labelled(values), 1, epoch, batch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(values) - 1))
    for each in batches:
        assert len(each) <= batch
        assert np.unique(values[each], return_counts=True)[1].min() >= count


def test_at_least_names_the_value_that_is_short():
    with pytest.raises(InputError, match="value 4 of labels.y has 1 samples of toy"):
        AtLeast("y")(labelled([0, 0, 4, 1, 1]), 0, 0, 4)


@given(
    values=st.lists(st.integers(-1, 5), min_size=8, max_size=90).filter(
        lambda values: len(set(values) - {-1}) >= 3
    ),
    count=st.integers(1, 4),
    epoch=st.integers(0, 2),
)
def test_per_class_gives_so_many_of_three_values(values, count, epoch):
    values = np.array(values)
    batches = PerClass("y", count)(labelled(values), 0, epoch, 3 * count)
    assert len(batches) == -(-int((values >= 0).sum()) // (3 * count))
    for each in batches:
        found, counts = np.unique(values[each], return_counts=True)
        assert len(found) == 3
        assert found.min() >= 0
        assert (counts == count).all()
        for value in found:
            rows = each[values[each] == value]
            assert len(set(rows.tolist())) == min(count, int((values == value).sum()))


def test_per_class_gives_every_sample_of_a_value_before_it_repeats_one():
    values = np.repeat([0, 1], 40)
    met = np.concatenate(PerClass("y", 4)(labelled(values), 0, 0, 8))
    assert sorted(met.tolist()) == list(range(80))


def test_per_class_says_how_many_values_a_batch_needs():
    with pytest.raises(InputError, match="needs 3 values, at least one, and toy has 2"):
        PerClass("y", 2)(labelled([0, 0, 1, 1]), 0, 0, 6)


@given(values=LABELS, most=st.integers(1, 4), batch=st.integers(4, 20), epoch=st.integers(0, 2))
def test_grouped_puts_some_of_every_group_side_by_side(values, most, batch, epoch):
    values = np.array(values)
    batches = Grouped("y", most)(labelled(values), 0, epoch, batch)
    met = np.concatenate(batches) if batches else np.empty(0, int)
    assert len(set(met.tolist())) == len(met)
    for value in set(values.tolist()) - {-1}:
        rows = np.flatnonzero(values[met] == value)
        assert len(rows) == min(most, int((values == value).sum()))
        assert rows.max() - rows.min() == len(rows) - 1, "they are side by side"
    assert all(len(each) <= batch for each in batches)


def test_grouped_draws_by_score():
    """Scores 1.5, .5, 3, 1.5 give the chances 3/13, 1/13, 6/13, 3/13; within 4.5 standard errors
    of 4,000 draws."""
    source = labelled([0, 0, 0, 0, 1], score=[1.5, 0.5, 3, 1.5, 0.0])
    first = [
        next(
            row for each in Grouped("y", 1, "score")(source, 0, epoch, 2) for row in each if row < 4
        )
        for epoch in range(4000)
    ]
    shares = np.bincount(first, minlength=4) / 4000
    chances = np.array([3, 1, 6, 3]) / 13
    assert np.abs(shares - chances).max() < 4.5 * np.sqrt((chances * (1 - chances)).max() / 4000)


def test_mined_puts_each_sample_with_samples_of_the_nearest_values():
    values = np.array([0, 0, 1, 1, 1, 2])
    near = np.array([[0, 2], [0, 1], [1, 0], [1, 2], [1, 0], [2, 0]])
    batches = Mined("y", "near", 3)(labelled(values, near=near), 0, 0, 13)
    assert [len(each) for each in batches] == [12] * 3
    blocks = np.concatenate(batches).reshape(-1, 2, 3)
    found = sorted(values[block].tolist() for block in blocks)
    assert found == sorted([[value] * 3 for value in row] for row in near.tolist())
    assert {int(row) for row in blocks.ravel()} == set(range(6))


def test_mined_has_a_block_for_each_anchor_alone():
    near = np.array([[0, 1], [-1, -1], [1, 0], [-1, -1]])
    source = labelled([0, 0, 1, 1], near=near)
    blocks = np.concatenate(Mined("y", "near", 2)(source, 0, 0, 4)).reshape(-1, 4) // 2
    assert sorted(blocks.tolist()) == [[0, 0, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("near", "batch", "message"),
    [
        ([[0, 1], [0, 7]], 8, "names value 7 of labels.y, which no sample"),
        ([[0, 1], [1, 0]], 5, "are 6 samples and do not fit into a batch of 5"),
    ],
)
def test_mined_refuses_what_it_cannot_serve(near, batch, message):
    with pytest.raises(InputError, match=message):
        Mined("y", "near", 3)(labelled([0, 1], near=near), 0, 0, batch)


def test_a_plan_by_a_column_that_no_prepare_computed_says_so():
    with pytest.raises(InputError, match="no array 'near'.*prepare can compute"):
        Mined("y", "near")(labelled([0, 1]), 0, 0, 8)


def test_weighted_repeats_samples_by_their_value():
    values = np.array([0] * 40 + [1] * 40 + [2] * 20)
    plan = Weighted("y", {0: 2.0, 1: 0.5})
    for epoch in range(3):
        batches = plan(labelled(values), 0, epoch, 16)
        counts = np.bincount(np.concatenate(batches), minlength=100)
        assert (counts[:40] == 2).all()
        assert set(counts[40:80].tolist()) == {0, 1}
        assert (counts[80:] == 1).all()
        assert max(map(len, batches)) <= 16


@given(count=st.integers(1, 40), batch=st.integers(3, 16), multiple=st.integers(1, 3))
def test_fixed_gives_batches_of_one_size_and_loses_no_sample(count, batch, multiple):
    batches = Fixed(InOrder(), multiple)(Toy(count), 0, 0, batch)
    size = batch // multiple * multiple
    assert {len(each) for each in batches} == {size}
    order = np.concatenate(batches)
    assert order.tolist() == [at % count for at in range(len(order))]
    assert len(order) - size < count <= len(order)


def test_fixed_refuses_a_batch_smaller_than_a_unit():
    with pytest.raises(InputError, match="units of 29 samples, and the batch size is 16"):
        Fixed(multiple=29)(Toy(40), 0, 0, 16)


@pytest.mark.parametrize(
    "plan",
    [OneGroup("y"), AtLeast("y"), PerClass("y", 2), Grouped("y"), Weighted("y", {0: 0.5}), Fixed()],
    ids=lambda plan: type(plan).__name__,
)
def test_plans_by_labels_follow_from_seed_and_epoch_alone(plan):
    source = labelled(np.arange(64) % 4)

    def order(seed, epoch):
        return np.concatenate(plan(source, seed, epoch, 8)).tolist()

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(3)}) == 6


@pytest.mark.parametrize(
    "plan",
    [
        OneGroup("y"),
        AtLeast("y"),
        PerClass("y"),
        Grouped("y"),
        Weighted("y", {}),
        Mined("y", "near"),
    ],
    ids=lambda plan: type(plan).__name__,
)
def test_plans_by_labels_need_the_label(plan):
    source = WithColumns(Toy(16), {"near": np.zeros((16, 2), int)})
    with pytest.raises(InputError, match="toy has no labels.y"):
        plan(source, 0, 0, 8)
