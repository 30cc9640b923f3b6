"""Arrays of numbers in .npy files."""

import io
from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from diptych.data.npy_files import read_npy
from diptych.data.sample import BadSample

KINDS = ("<f4", ">f8", "<i2", "u1", "?", "<c8")


def stored(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@given(
    st.sampled_from(KINDS).flatmap(
        lambda kind: arrays(kind, array_shapes(min_dims=0, min_side=0, max_side=4))
    ),
    st.sampled_from("CF"),
)
def test_an_array_is_read_as_numpy_reads_it(values, order):
    data = stored(np.asarray(values, order=order))
    found = read_npy(data)
    expected = np.load(io.BytesIO(data))
    np.testing.assert_array_equal(found, expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.flags.writeable


@pytest.mark.parametrize("cut", [3, 9, 40, -1])
def test_a_file_that_ends_early_is_damaged(cut):
    with pytest.raises(BadSample):
        read_npy(stored(np.arange(5.0))[:cut])


def test_threads_read_different_headers_at_once():
    """In some versions of Python 3.11 and 3.12 `ast` fails at random in two threads at once."""
    files = [stored(np.zeros((size, 2))) for size in range(1, 1500)]
    with ThreadPoolExecutor(8) as pool:
        sizes = [len(found) for found in pool.map(read_npy, files)]
    assert sizes == list(range(1, 1500))
