"""Groups: the sheet's mixed-radix codes, their merging and what batches of one group cover."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diptych.methods.pretrain.mcl.groups import combined, coverage, merged


def test_codes_are_numbers_to_the_base_of_the_clusters():
    labels = [np.array([0, 1, 2]), np.array([3, 0, 9])]
    assert combined(labels, 10).tolist() == [3, 10, 29]
    assert combined([*labels, np.array([1, 1, 0])], 10).tolist() == [31, 101, 290]
    assert combined(labels[:1], 10).tolist() == [0, 1, 2]


def slowly_merged(groups, vectors, least):
    groups = list(groups)
    while len(set(groups)) > 1:
        counts = {name: groups.count(name) for name in sorted(set(groups))}
        small = min(counts, key=counts.get)
        if counts[small] >= least:
            break
        centroids = {
            name: np.mean([v for v, g in zip(vectors, groups, strict=True) if g == name], axis=0)
            for name in counts
        }
        others = [name for name in counts if name != small]
        nearest = min(others, key=lambda name: np.square(centroids[name] - centroids[small]).sum())
        groups = [nearest if name == small else name for name in groups]
    return groups


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=40),
    st.integers(1, 12),
    st.integers(0, 1000),
)
def test_small_groups_are_merged_into_the_nearest(groups, least, seed):
    vectors = np.random.default_rng(seed).normal(size=(len(groups), 3))
    found = merged(np.array(groups), vectors, least)
    assert found.tolist() == slowly_merged(groups, vectors, least)
    counts = np.unique(found, return_counts=True)[1]
    assert len(counts) == 1 or counts.min() >= least


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 9))
def test_coverage_counts_whole_batches_of_one_group(groups, batch):
    kept = sum(groups.count(name) // batch * batch for name in set(groups))
    assert abs(coverage(np.array(groups), batch) - kept / len(groups)) < 1e-12
