"""Chest radiographs with findings, in the tables of CheXpert and of NIH's ChestX-ray8 and 14.

    train.csv                           CheXpert: Path, …, then a column for each of 14 observations
    Data_Entry_2017.csv:split=test      NIH: Image Index, Finding Labels ("Effusion|Mass"), …

Each observation is a label: absent, present, uncertain, or -1 where it is not mentioned. `class` is the
combination of those that are present (`_findings`); a sample that has none is of no class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.data.compact import Strings, is_folder
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, Field, Sample, Schema
from diptych.data.sources._files import inside
from diptych.data.sources._findings import ABSENT, PRESENT, UNCERTAIN, Findings
from diptych.data.sources.rows import CsvRows
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "radiographs"
_CHEXPERT = "Path,Sex,Age,Frontal/Lateral,AP/PA,"
_NIH = "Image Index,Finding Labels,"
_MARKS = {"1.0": PRESENT, "0.0": ABSENT, "-1.0": UNCERTAIN, "": -1}
_LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
"""The published lists of NIH's splits."""


@dataclass(frozen=True, kw_only=True)
class RadiographOptions:
    """Options of a table: `images` is the folder that its paths begin at; `split` that of NIH, train or
    test, by the published lists beside it."""

    images: str | None = None
    split: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a .csv whose first line is CheXpert's or NIH's."""
    return spec.name.lower().endswith(".csv") and not is_folder(spec) and _first(spec.name) != ""


def _first(path: str) -> str:
    """The beginning of the first line, if it is one of the two."""
    try:
        with Path(path).open("rb") as file:
            line = file.read(100).decode("utf-8-sig", "replace")
    except OSError:
        return ""
    return next((each for each in (_CHEXPERT, _NIH) if line.startswith(each)), "")


def open(spec: Spec) -> "Radiographs":
    """Open `train.csv[:images=FOLDER][:split=train|test]`. Raises InputError for a table without rows,
    and a folder without the first image."""
    options = configure(RadiographOptions, spec.options, f"source {spec.name!r}")
    if _first(spec.name) == _NIH:
        return _nih(spec.name, options)
    if options.split is not None:
        raise InputError(f"{spec.name}: CheXpert has a table for each split; leave out split=")
    return _chexpert(spec.name, options)


def _chexpert(name: str, options: RadiographOptions) -> "Radiographs":
    rows = CsvRows(name)
    names = [column for column in rows.columns if column not in _CHEXPERT.split(",")]
    paths = []
    values = []
    damage = {}
    for number, row in enumerate(rows.scan(), 1):
        if isinstance(row, BadSample) or not inside(row.get("Path", "")):
            damage[f"{name}:{number}"] = row.reason if isinstance(row, BadSample) else "columns"
            continue
        marks = [_MARKS.get(row.get(each, "")) for each in names]
        if None in marks:
            damage[f"{name}:{number}"] = "label"
            continue
        paths.append(row["Path"])
        values.append(marks)
    # paths begin with the folder of the table, "CheXpert-v1.0-small/train/…"
    folder = Path(options.images) if options.images else Path(name).absolute().parent.parent
    return Radiographs(name, folder, paths, names, np.array(values), damage)


def _nih(name: str, options: RadiographOptions) -> "Radiographs":
    kept = None if options.split is None else _listed(name, options.split)
    found: dict[str, list[str]] = {}
    damage = {}
    for number, row in enumerate(CsvRows(name).scan(), 1):
        if isinstance(row, BadSample):
            damage[f"{name}:{number}"] = row.reason
        elif "Finding Labels" not in row or not inside(row.get("Image Index", "")):
            damage[f"{name}:{number}"] = "columns"
        elif kept is None or row["Image Index"] in kept:
            found[row["Image Index"]] = row["Finding Labels"].split("|")
    names = sorted({finding for own in found.values() for finding in own})
    values = np.full((len(found), len(names)), ABSENT)
    for at, own in enumerate(found.values()):
        values[at, [names.index(finding) for finding in own]] = PRESENT
    folder = Path(options.images) if options.images else Path(name).parent
    paths = _located(folder, list(found))
    return Radiographs(name, folder, paths, names, values, damage, keys=list(found))


def _listed(name: str, split: str) -> frozenset[str]:
    """The names of the images of a split."""
    if split not in _LISTS:
        raise InputError(f"{name}: there is no split {split!r}; write split=train or split=test")
    path = Path(name).parent / _LISTS[split]
    if not path.is_file():
        raise InputError(f"{path}: no such file; put NIH's list of the split {split} there")
    return frozenset(path.read_text("utf-8").split())


def _located(folder: Path, names: Sequence[str]) -> list[str]:
    """The paths of NIH's images in the folder, in `images`, or in the folders of its archives
    (`images_001/images`, …)."""
    places = [
        Path("images"),
        *(each.relative_to(folder) for each in folder.glob("images_*/images")),
    ]
    held = {
        each.name: str(each.relative_to(folder))
        for place in places
        if (folder / place).is_dir()
        for each in (folder / place).iterdir()
    }
    return [held.get(name, name) for name in names]


class Radiographs:
    """One sample for each row, in order. Rows that cannot be read are counted in `damage`."""

    def __init__(
        self,
        name: str,
        folder: Path,
        paths: Sequence[str],
        names: Sequence[str],
        values: np.ndarray,
        damage: Mapping[str, str],
        keys: Sequence[str] | None = None,
    ):
        if not paths:
            raise InputError(
                f"{name}: none of its rows can be read; compare it with the published table"
            )
        if not (folder / paths[0]).is_file():
            raise InputError(
                f"{name}: its first image, {paths[0]}, is not in {folder}; name the folder with :images=FOLDER"
            )
        self.name = name
        self.folder = str(folder)
        self.damage = dict(damage)
        self._paths = Strings(paths)
        self._keys = self._paths if keys is None else Strings(keys)
        self._findings = Findings(names, values)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        return Sample(
            key=self._keys[index],
            source=self.name,
            images={"main": FileImage(str(Path(self.folder, self._paths[index])))},
            labels=self._findings.of(index),
        )

    def keys(self) -> Sequence[str]:
        """The paths, or the names, of the images."""
        return self._keys

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,)."""
        return self._findings.labels(name)

    def schema(self) -> Schema:
        """Images, the combination of findings, and each of them."""
        return {"images.main": Field(kind="image"), **self._findings.schema()}
