"""Units of classes: none twice, names in sentences, initial sets of the published sizes."""

import numpy as np
import pytest

from diptych.methods.adapt.proapo.units import initial_sets, unit_masks, units_of
from diptych.models.class_prompts import prompts


def test_each_sentence_comes_with_each_name_and_no_unit_comes_twice():
    units = units_of("Ox", ["An ox in a BOX.", "an ox in a box.", "It is big."], ["Ox", "bull"])
    assert units == (
        ("Ox", ""),
        ("bull", ""),
        ("Ox", "an Ox in a box."),
        ("Ox", "it is big."),
        ("bull", "an bull in a box."),
        ("bull", "it is big."),
    )
    all_prompts = [prompt for unit in units for prompt in prompts(unit, ["a {}.", "{}"])]
    assert len(set(all_prompts)) == len(all_prompts) == 12


def test_a_name_is_taken_literally_in_sentences():
    assert units_of("c++ (code)", ["c++ (code) is read."], [r"\1"])[3] == (r"\1", r"\1 is read.")
    assert units_of("a.b", ["axb and a.b"], ["q"])[-1] == ("q", "axb and q")


def test_masks_are_as_wide_as_the_class_with_most_units():
    exists, name_only = unit_masks(
        [units_of("cat", ["a."]), units_of("dog", ["a.", "b."], ["hound"])]
    )
    assert exists.sum(1).tolist() == [2, 6]
    assert name_only.sum(1).tolist() == [1, 2]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 10])
def test_samples_hold_a_third_or_more_of_the_sentences(n):
    exists, name_only = unit_masks(
        [units_of(name, [f"{i}." for i in range(n)]) for name in ("cat", "dog", "owl")]
    )
    found = initial_sets(exists, name_only, np.random.default_rng(0))
    assert found.shape == (2 + 16 + 16, 3, n + 1)
    assert np.array_equal(found[0], exists & ~name_only)
    assert np.array_equal(found[1], name_only)
    least = {1: 1, 2: 1, 3: 1, 4: 2, 10: 4}[n]
    sizes = found[2:].sum(2)
    assert not found[2:, name_only].any()
    assert least <= sizes.min() <= sizes.max() <= n
    assert (sizes[16:] == sizes[16:, :1]).all()  # one size for all classes
    if n > 3:
        assert (sizes[:16] != sizes[:16, :1]).any()
        assert len(np.unique(sizes)) == n - least + 1


def test_classes_with_few_sentences_or_none_are_sampled_too():
    units = [units_of("cat", [f"{i}." for i in range(9)]), units_of("dog", ["a."]), units_of("owl")]
    exists, name_only = unit_masks(units)
    found = initial_sets(exists, name_only, np.random.default_rng(0))
    assert (found.sum(2) >= 1).all()
    assert found[0].sum(1).tolist() == [9, 1, 1]
    assert found[18:, 0].sum(1).max() > 1
