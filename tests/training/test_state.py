"""Checkpoints: round trips, a kill at any point of a write, a full disk, damage."""

import errno
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diptych.errors import InputError
from diptych.training import state
from diptych.training.state import Checkpoints, pack, unpack

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
)
TREES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.integers(0, 9) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(tree=TREES)
def test_trees_of_plain_values_come_back_equal(tree):
    assert unpack(*pack(tree)) == tree


def test_tensors_come_back_to_the_bit_with_dtype_and_shape():
    tree = {
        0: {"a": torch.tensor(1.5), "b": torch.arange(6, dtype=torch.int16).view(2, 3)},
        "c": [torch.ones(0)],
    }
    back = unpack(*pack(tree))
    assert back[0]["b"].dtype == torch.int16
    assert torch.equal(back[0]["b"], tree[0]["b"])
    assert torch.equal(back[0]["a"], tree[0]["a"])
    assert back["c"][0].shape == (0,)


def test_only_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 10):
        checkpoints.save(step, {"step": step})
    assert checkpoints.steps() == [2, 10]
    assert checkpoints.load() == {"step": 10}


POINTS = {
    "mkdir": Path,
    "save_file": state,
    "write_text": Path,
    "sync": state,
    "rename": Path,
    "rmtree": shutil,
}


def write_and_die(folder, point, moment):
    """In a process of its own: write step 2, then step 3 with a kill before or after one of its
    system calls."""

    def killing(original):
        def call(*arguments, **keywords):
            if moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            original(*arguments, **keywords)
            os.kill(os.getpid(), signal.SIGKILL)

        return call

    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(2, {"weights": torch.full((1000,), 2.0)})
    setattr(POINTS[point], point, killing(getattr(POINTS[point], point)))
    checkpoints.save(3, {"weights": torch.full((1000,), 3.0)})


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_kill_during_a_write_leaves_the_latest_whole_checkpoint(tmp_path, point, moment):
    """A process killed before or after any step of writing step 3 leaves step 2, or step 3,
    whole."""
    process = multiprocessing.get_context("fork").Process(
        target=write_and_die, args=(tmp_path, point, moment)
    )
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.clean()
    newest = checkpoints.steps()[-1]
    assert newest == (
        3
        if (point, moment) in {("rename", "after"), ("rmtree", "before"), ("rmtree", "after")}
        else 2
    )
    assert torch.equal(checkpoints.load()["weights"], torch.full((1000,), float(newest)))
    assert not list(tmp_path.glob(".*")), "what the killed writer left must be cleaned away"


def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_half_written(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"weights": torch.ones(3)})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(InputError, match="no space left.*--resume"):
        checkpoints.save(2, {"weights": torch.ones(3)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000001"]


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe\x00"])
def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path, name, damage):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(7, {"weights": torch.ones(3)})
    (Path(tmp_path) / "step-000000007" / name).write_bytes(damage)
    with pytest.raises(InputError, match="step-000000007.* is damaged.*remove the checkpoint"):
        checkpoints.load()
