"""Units of classes: none twice, names in sentences, starts of the sizes that the sheet has."""

import numpy as np
import pytest

from diptych.methods.adapt.proapo.prompt_sets import prompts
from diptych.methods.adapt.proapo.units import starts, table, units_of


def test_a_class_is_called_by_each_of_its_names_and_nothing_is_said_twice():
    units = units_of("Ox", ["An ox in a BOX.", "an ox in a box.", "It is big."], ["Ox", "bull"])
    assert units == (
        ("Ox", ""), ("bull", ""), ("Ox", "an Ox in a box."), ("Ox", "it is big."), ("bull", "an bull in a box."),
        ("bull", "it is big."),
    )  # fmt: skip
    told = [prompt for unit in units for prompt in prompts(unit, ["a {}.", "{}"])]
    assert len(set(told)) == len(told) == 12


def test_a_name_is_taken_literally_in_sentences():
    assert units_of("c++ (code)", ["c++ (code) is read."], [r"\1"])[3] == (r"\1", r"\1 is read.")
    assert units_of("a.b", ["axb and a.b"], ["q"])[-1] == ("q", "axb and q")


def test_the_table_is_ragged():
    there, named = table([units_of("cat", ["a."]), units_of("dog", ["a.", "b."], ["hound"])])
    assert there.sum(1).tolist() == [2, 6]
    assert named.sum(1).tolist() == [1, 2]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 10])
def test_samples_hold_a_third_or_more_of_the_sentences(n):
    there, named = table([units_of(name, [f"{i}." for i in range(n)]) for name in ("cat", "dog", "owl")])
    found = starts(there, named, np.random.default_rng(0))
    assert found.shape == (2 + 16 + 16, 3, n + 1)
    assert np.array_equal(found[0], there & ~named)
    assert np.array_equal(found[1], named)
    least = {1: 1, 2: 1, 3: 1, 4: 2, 10: 4}[n]
    sizes = found[2:].sum(2)
    assert not found[2:, named].any()
    assert least <= sizes.min() <= sizes.max() <= n
    assert (sizes[16:] == sizes[16:, :1]).all()  # one size for all classes
    if n > 3:
        assert (sizes[:16] != sizes[:16, :1]).any()
        assert len(np.unique(sizes)) == n - least + 1


def test_classes_of_few_sentences_or_none_are_sampled_too():
    there, named = table([units_of("cat", [f"{i}." for i in range(9)]), units_of("dog", ["a."]), units_of("owl")])
    found = starts(there, named, np.random.default_rng(0))
    assert (found.sum(2) >= 1).all()
    assert found[0].sum(1).tolist() == [9, 1, 1]
    assert found[18:, 0].sum(1).max() > 1
