"""CoOp's splits of classified images (`split_zhou_OxfordPets.json`): JSON lists of path, label and
class name."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.compact import Strings, is_folder
from diptych.data.images import FileImage
from diptych.data.sample import Field, Sample, Schema
from diptych.data.sources.records import json_of
from diptych.errors import InputError
from diptych.spec import Spec, configure, several

FORMAT = "split_zhou"


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its name."""
    name = os.path.basename(spec.name).lower()  # noqa: PTH119  (Path may raise for long texts)
    return name.startswith("split_zhou") and name.endswith(".json") and not is_folder(spec)


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Options: the splits, joined by `+`, and the folder to which the images' paths are
    relative."""

    split: str | None = None
    root: str | None = None


def open(spec: Spec) -> "Split":
    """Open `split_zhou_NAME.json:split=train[+val][:root=FOLDER]`.

    The default root is the folder `images` next to the file if there is one, else the file's
    folder. Raises InputError for a file of another form, an unknown split, and a wrong folder.
    """
    options = configure(SplitOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    splits = _read(path)
    classes = _classes(path, [entry for entries in splits.values() for entry in entries])
    if options.split is None:
        raise InputError(
            f"{path}: holds the splits {', '.join(splits)}; choose one, such as :split=train, or some joined by +"
        )
    chosen = several(f"split of {path}", options.split, list(splits))
    entries = [entry for name in chosen for entry in splits[name]]
    if not entries:
        raise InputError(
            f"{path}: split {options.split} is empty; choose from {', '.join(filter(splits.get, splits))}"
        )
    beside = path.parent / "images"
    root = (
        Path(options.root)
        if options.root is not None
        else beside
        if beside.is_dir()
        else path.parent
    )
    first = entries[0][0]
    if not os.path.isfile(root / first):  # noqa: PTH113  (False for any text)
        raise InputError(
            f"{path}: its first image, {first}, is not in {root}; name the folder with :root=FOLDER"
        )
    return Split(spec.name, str(root), entries, classes)


_Entry = tuple[str, int, str]


def _read(path: Path) -> Mapping[str, Sequence[_Entry]]:
    """The file's lists by split, with every entry checked."""
    data = json_of(path)
    if (
        not isinstance(data, dict)
        or not data
        or not all(isinstance(entries, list) for entries in data.values())
    ):
        raise InputError(
            f"{path}: no lists by split, such as {{'train': [[path, label, name], …], 'test': …}}"
        )
    for split, entries in data.items():
        for at, entry in enumerate(entries, 1):
            if not _fits(entry):
                raise InputError(
                    f"{path}: entry {at} of {split} is {str(entry)[:60]}, not [path, label, class name]"
                )
            if os.path.isabs(entry[0]) or Path(os.path.normpath(entry[0])).parts[:1] == ("..",):  # noqa: PTH117
                raise InputError(
                    f"{path}: entry {at} of {split}, {entry[0]}, leaves the root; write paths below it"
                )
    return data


def _fits(entry: Any) -> bool:
    return (
        isinstance(entry, list)
        and [type(value) for value in entry] == [str, int, str]
        and entry[1] >= 0
        and bool(entry[0] and entry[2])
    )


def _classes(path: Path, entries: Sequence[_Entry]) -> dict[int, str]:
    """The name of each label, in order, over all splits, so that a class has the same number in
    each."""
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    for _, label, name in entries:
        if (other := names.setdefault(label, name)) != name:
            raise InputError(
                f"{path}: label {label} has two names, {other!r} and {name!r}; give each class one label"
            )
        if (first := labels.setdefault(name, label)) != label:
            raise InputError(
                f"{path}: class {name!r} has two labels, {first} and {label}; give each class one label"
            )
    return dict(sorted(names.items()))


class Split:
    """One sample per entry, with its image and the label `class`; the image's path is the key.

    Labels are renumbered from 0, in the order of the file's labels. Raises InputError if an image
    is listed twice.
    """

    def __init__(self, name: str, root: str, entries: Sequence[_Entry], classes: Mapping[int, str]):
        self.name = name
        self.root = root
        paths = [path for path, _, _ in entries]
        if len(set(paths)) < len(paths):
            twice, _ = Counter(paths).most_common(1)[0]
            raise InputError(f"{name}: the image {twice} is listed twice; list it once")
        self._paths = Strings(paths)
        self._classes = tuple(classes.values())
        self._label = np.searchsorted(list(classes), [label for _, label, _ in entries])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        path = self._paths[index]
        return Sample(
            key=path,
            source=self.name,
            images={"main": FileImage(str(Path(self.root, path)))},
            labels={"class": int(self._label[index])},
        )

    def keys(self) -> Sequence[str]:
        """The images' paths below the root."""
        return self._paths

    def labels(self, name: str) -> np.ndarray:
        """The label `class` of all samples (N,)."""
        assert name == "class"
        return self._label

    def schema(self) -> Schema:
        """Images and their classes."""
        return {
            "images.main": Field(kind="image"),
            "labels.class": Field(kind="int", classes=self._classes),
        }
