"""KiTS (`kits23/dataset/`): abdominal CT volumes with masks of kidneys, tumours and cysts, as kidneys.

    case_00000/imaging.nii.gz         Hounsfield units
    case_00000/segmentation.nii.gz    0 other, 1 kidney, 2 tumour, 3 cyst
    kits.json                         one object a case, here or in the folder above

A sample is one kidney: the part of the volume around it and its masses. Its sides are told apart by
their place in the body; volumes are brought into the order of axial slices (`data.volume_files`).
Voxels of a case are read once for its masks, and again for its volumes: `diptych data make` writes
shards of the kidneys alone.

Source: Heller et al. 2019, 2023 (KiTS19, KiTS23).

Dimensions: D slices, H rows, W columns.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.compact import is_folder
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, Field, Sample, Schema, missing
from diptych.data.sources.records import json_of
from diptych.data.volume_files import middle_slice, npy_bytes, read_volume
from diptych.errors import InputError
from diptych.spec import Share, Spec, configure

FORMAT = "kits"
SIDES = ("left", "right")
_VOLUME = "imaging.nii.gz"
_MASK = "segmentation.nii.gz"
_FACTS = ("kits.json", "kits23.json", "kits21.json")
_CLASSES = {
    "side": SIDES,
    "mass": ("none", "cyst", "tumour"),
    "malignant": ("benign", "malignant"),
}


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a folder of cases with volumes."""
    return is_folder(spec) and next(Path(spec.name).glob(f"case_*/{_VOLUME}"), None) is not None


@dataclass(frozen=True, kw_only=True)
class KiTSOptions:
    """Options: `margin` is added around a kidney, as a share of its extent."""

    margin: Share = 0.1


def open(spec: Spec) -> "KiTS":
    """Open `FOLDER[:margin=0.1]`. Raises InputError for a case without its mask."""
    options = configure(KiTSOptions, spec.options, f"source {spec.name!r}")
    return KiTS(Path(spec.name), options.margin)


@dataclass(frozen=True)
class Kidney:
    """Where a kidney is, as slices of the axes of its volume, and its mass: 0 none, 1 cyst, 2
    tumour."""

    box: tuple[slice, slice, slice]
    mass: int


class KiTS:
    """Two kidneys for each case, left and right, in the order of cases; `case_00000-left` is a key.

    Labels are `patient` (the case's place), `side`, `mass`, and of the side with a tumour, if
    kits.json tells them, `malignant`, `death_time` in days and `death_event`. Reading a side without
    a kidney raises BadSample("no-kidney").
    """

    def __init__(self, root: Path, margin: float):
        self.name = str(root)
        self.root = root
        self.margin = margin
        self.cases = sorted(path.parent.name for path in root.glob(f"case_*/{_VOLUME}"))
        for case in self.cases:
            if not (root / case / _MASK).is_file():
                raise InputError(
                    f"{root / case} has no {_MASK}, which tells where the kidneys are; fetch it, or remove the case"
                )
        self.facts = _facts(root)

    def __len__(self) -> int:
        return 2 * len(self.cases)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        patient, side = divmod(index, 2)
        case = self.cases[patient]
        kidney = kidneys_of(str(self.root / case / _MASK), self.margin).get(side)
        if kidney is None:
            raise BadSample("no-kidney", f"{case} has no {SIDES[side]} kidney in its mask")
        return Sample(
            key=f"{case}-{SIDES[side]}",
            source=self.name,
            images={"main": Part(str(self.root / case / _VOLUME), kidney.box)},
            labels={
                "patient": patient,
                "side": side,
                "mass": kidney.mass,
                **self._outcome(case, kidney),
            },
        )

    def _outcome(self, case: str, kidney: Kidney) -> dict[str, int | float]:
        facts = self.facts.get(case, {})
        found: dict[str, int | float] = {"malignant": -1, "death_time": math.nan, "death_event": -1}
        if kidney.mass != 2:
            return found
        if isinstance(facts.get("malignant"), bool):
            found["malignant"] = int(facts["malignant"])
        days = facts.get("vital_days_after_surgery")
        if isinstance(days, int | float) and facts.get("vital_status"):
            found["death_time"] = float(days)
            found["death_event"] = int(facts["vital_status"] == "dead")
        return found

    def keys(self) -> Sequence[str]:
        """The cases with their sides."""
        return [f"{case}-{side}" for case in self.cases for side in SIDES]

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,), missing of a side without a kidney; patient and side are known
        without reading masks."""
        if name in ("patient", "side"):
            both = np.divmod(np.arange(len(self)), 2)
            return both[0] if name == "patient" else both[1]
        found = []
        for index in range(len(self)):
            try:
                found.append(self[index].labels[name])
            except BadSample:
                found.append(missing(self.schema().get(f"labels.{name}")))
        return np.array(found)

    def schema(self) -> Schema:
        """The volume, and the labels."""
        labels = {
            "patient": Field(kind="int"),
            **{name: Field(kind="int", classes=classes) for name, classes in _CLASSES.items()},
            "death_time": Field(kind="float"),
            "death_event": Field(kind="int"),
        }
        return {
            "images.main": Field(kind="image"),
            **{f"labels.{name}": field for name, field in labels.items()},
        }


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a volume in a file that lies in a box."""

    path: str
    box: tuple[slice, slice, slice]

    def volume(self) -> np.ndarray:
        """The part (D, H, W). Raises BadSample as `read_volume` does, and if the box lies
        outside."""
        found = read_volume(FileImage(self.path).read())
        if any(part.stop > size for part, size in zip(self.box, found.shape, strict=True)):
            raise BadSample("axes", f"{self.path} is {found.shape}, and its mask is larger")
        return found[self.box]

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The middle slice."""
        return middle_slice(self.volume())

    def read(self) -> bytes:
        """The part as a .npy file."""
        return npy_bytes(self.volume())


@lru_cache(maxsize=1024)
def kidneys_of(path: str, margin: float) -> Mapping[int, Kidney]:
    """The kidneys that a mask shows, by side: 0 left, 1 right."""
    mask = read_volume(FileImage(path).read())
    columns = np.asarray((mask > 0).any((0, 1)))
    found = {}
    for side, part in _sides(columns).items():
        own = mask[:, :, part]
        if own.any():
            box = tuple(
                _around(np.asarray((own > 0).any(axes)), margin, start)
                for axes, start in (((1, 2), 0), ((0, 2), 0), ((0, 1), part.start))
            )
            mass = 2 if (own == 2).any() else 1 if (own == 3).any() else 0
            found[side] = Kidney(box, mass)  # type: ignore[arg-type]  # three slices
    return found


def _sides(columns: np.ndarray) -> dict[int, slice]:
    """The columns of the right and of the left kidney: both sides of the widest gap between columns
    with a kidney, or of the middle without one. Columns run to the patient's left."""
    there = np.flatnonzero(columns)
    gaps = np.diff(there)
    cut = len(columns) // 2
    if len(gaps) and gaps.max() > 1:
        at = int(gaps.argmax())
        cut = int(there[at] + there[at + 1]) // 2 + 1
    return {0: slice(cut, len(columns)), 1: slice(0, cut)}


def _around(there: np.ndarray, margin: float, start: int) -> slice:
    """The range of an axis that holds all true places and a margin; `start` is the first place of
    the part."""
    places = np.flatnonzero(there)
    first = int(places[0])
    last = int(places[-1]) + 1
    more = round(margin * (last - first))
    return slice(start + max(0, first - more), start + min(len(there), last + more))


def _facts(root: Path) -> dict[str, Any]:
    """The objects of kits.json by case; none without the file."""
    for folder in (root, root.parent):
        for name in _FACTS:
            if (folder / name).is_file():
                path = folder / name
                entries = json_of(path)
                if not isinstance(entries, list) or not all(
                    isinstance(entry, Mapping) and "case_id" in entry for entry in entries
                ):
                    raise InputError(f"{path} is no list of cases with case_id; fetch it again")
                return {entry["case_id"]: entry for entry in entries}
    return {}
