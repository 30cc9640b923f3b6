"""Checkpoints: a folder state/step-N of one safetensors file and one JSON file, either complete or
absent.

A checkpoint is written to a hidden folder, flushed, and renamed, so a process that is killed at any
moment leaves the latest complete one in place. What a killed writer left behind is removed at the
next start.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diptych.errors import InputError, brief
from diptych.files import is_full, read_json, sync
from diptych.spec import Natural

_TENSORS = "tensors.safetensors"
_TREE = "state.json"
_STEP = re.compile(r"step-(\d{9,18})")


def pack(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split a tree of dicts, lists and plain values into JSON and its tensors.

    >>> import torch
    >>> unpack(*pack({"state": {0: {"step": torch.tensor(2.0)}}, "lr": 0.1}))
    {'state': {0: {'step': tensor(2.)}}, 'lr': 0.1}
    """
    tensors: dict[str, Tensor] = {}

    def walk(node: Any) -> Any:
        if isinstance(node, Tensor):
            name = f"t{len(tensors)}"
            tensors[name] = node.detach().cpu().contiguous().clone()
            return {"tensor": name}
        if isinstance(node, dict):  # keys may be integers, which JSON would turn into text
            return {"dict": [[key, walk(value)] for key, value in node.items()]}
        if isinstance(node, list | tuple):
            return {"list": [walk(value) for value in node]}
        assert node is None or isinstance(node, str | int | float | bool), (
            f"cannot save a {type(node).__name__}"
        )
        return node

    return walk(tree), tensors


def unpack(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `pack` (tuples come back as lists)."""
    if not isinstance(tree, dict):
        return tree
    ((kind, node),) = tree.items()
    if kind == "tensor":
        return tensors[node]
    if kind == "dict":
        return {key: unpack(value, tensors) for key, value in node}
    return [unpack(value, tensors) for value in node]


class Checkpoints:
    """The checkpoints of one run, of which the newest `keep` are kept."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = folder
        self.keep = keep

    def clean(self) -> None:
        """Remove what a killed writer left behind."""
        for path in self.folder.glob(".*.tmp"):
            shutil.rmtree(path, ignore_errors=True)

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, ascending."""
        names = [_STEP.fullmatch(path.name) for path in self.folder.glob("step-*")]
        return sorted(int(name[1]) for name in names if name)

    def newest(self) -> Path:
        """Return the folder of the newest checkpoint."""
        return self.folder / f"step-{self.steps()[-1]:09d}"

    def save(self, step: int, tree: Any) -> None:
        """Write the checkpoint of `step`, then remove the oldest; a full disk leaves the earlier
        ones intact."""
        final = self.folder / f"step-{step:09d}"
        temporary = self.folder / f".{final.name}.{os.getpid()}.tmp"
        plain, tensors = pack(tree)
        try:
            temporary.mkdir(parents=True)
            save_file(tensors, temporary / _TENSORS)
            (temporary / _TREE).write_text(json.dumps(plain), encoding="utf-8")
            for path in (temporary / _TENSORS, temporary / _TREE, temporary):
                sync(path)
            if (
                final.exists()
            ):  # the same step again, as after a signal: the content is equal, so replace it
                shutil.rmtree(final)
            temporary.rename(final)
            sync(self.folder)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if is_full(error):
                raise InputError(
                    f"no space left to write {final}; earlier checkpoints are whole, make room and go on with --resume"
                ) from error
            raise
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder / f"step-{old:09d}")

    def load(self) -> Any | None:
        """Return the newest checkpoint, or None if there is none."""
        if not self.steps():
            return None
        folder = self.newest()
        remedy = "remove the checkpoint to go on from the one before"
        try:
            state = unpack(read_json(folder / _TREE, remedy), load_file(folder / _TENSORS))
        except InputError:
            raise
        except (OSError, ValueError, SafetensorError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"checkpoint {folder} is damaged ({brief(error)}); {remedy}") from None
        return state


@dataclass(frozen=True, slots=True)
class Position:
    """The position of the next step: `batch` of `epoch` is step `step` of stage number `stage`;
    `done` counts the steps of all stages."""

    stage: Natural = 0
    epoch: Natural = 0
    batch: Natural = 0
    step: Natural = 0
    done: Natural = 0


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The contents of a checkpoint. Those of older versions lack `guard`, `memory`, `data` or
    `selection`."""

    position: Mapping[str, int]
    method: Mapping[str, Any]
    optimizer: Mapping[str, Any] | None
    average: Mapping[str, Any] | None
    damaged: Mapping[str, str]
    skipped: Natural
    guard: list[float] = field(default_factory=list)
    memory: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    selection: Mapping[str, Any] = field(default_factory=dict)
