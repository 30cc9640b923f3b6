"""MIMIC-CXR: radiographs and reports in free text, in the folders of MIMIC-CXR-JPG.

    mimic-cxr-2.0.0-split.csv.gz                      dicom_id, study_id, subject_id, split
    mimic-cxr-2.0.0-metadata.csv.gz                   dicom_id, ViewPosition, …
    files/p10/p10000032/s50414267.txt                 the report of a study
    files/p10/p10000032/s50414267/02aa804e-….jpg      its images

Findings and impression are texts of these roles; other sections are left out.
"""

import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diptych.data.compact import Strings, is_folder
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, Field, Sample, Schema, Text
from diptych.data.sources._sections import ROLES, sections
from diptych.errors import InputError, unknown
from diptych.spec import Spec, configure

FORMAT = "mimic-cxr"
_TABLE = "mimic-cxr-2.0.0-{}.csv"
_SPLITS = ("train", "validate", "test")


@dataclass(frozen=True, kw_only=True)
class MimicOptions:
    """Options of the folder: `split` is train, validate or test (None: all); `views` the view
    positions, such as PA+AP; `reports` another folder of the reports; `each` says whether a sample
    is an image or a study, which has its first image."""

    split: str | None = None
    views: str | None = None
    reports: str | None = None
    each: Literal["image", "study"] = "image"


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a folder with MIMIC-CXR's table of splits."""
    return is_folder(spec) and _table(Path(spec.name), "split") is not None


def open(spec: Spec) -> "MimicCXR":
    """Open `FOLDER[:split=train][:views=PA+AP][:reports=FOLDER][:each=study]`. Raises InputError for
    a split or view that there is none of, and if the first report is missing."""
    options = configure(MimicOptions, spec.options, f"source {spec.name!r}")
    root = Path(spec.name)
    if options.split not in (None, *_SPLITS):
        raise unknown("split of MIMIC-CXR", str(options.split), _SPLITS)
    kept = None if options.views is None else _of_views(root, options.views.split("+"))
    rows = [
        (f"p{row['subject_id'][:2]}/p{row['subject_id']}/s{row['study_id']}", row["dicom_id"])
        for row in _rows(root, "split")
        if options.split in (None, row["split"]) and (kept is None or row["dicom_id"] in kept)
    ]
    if not rows:
        raise InputError(f"{root}: no image is of this split and these views; choose others")
    reports = _folder(root, options.reports, f"{rows[0][0]}.txt")
    images = (root / "files" / rows[0][0] / f"{rows[0][1]}.jpg").is_file()
    if options.each == "study" or not images:
        rows = list(dict(reversed(rows)).items())[::-1]  # the first image of each
    return MimicCXR(spec.name, root if images else None, reports, rows)


def _table(root: Path, name: str) -> Path | None:
    """A table of the folder, packed or not."""
    plain = root / _TABLE.format(name)
    return next((path for path in (plain, Path(f"{plain}.gz")) if path.is_file()), None)


def _rows(root: Path, name: str) -> Iterator[Mapping[str, str]]:
    path = _table(root, name)
    if path is None:
        raise InputError(f"{root} has no {_TABLE.format(name)}.gz; copy it from MIMIC-CXR-JPG")
    opened = gzip.open if path.suffix == ".gz" else Path.open
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); copy it again") from None


def _of_views(root: Path, views: Sequence[str]) -> frozenset[str]:
    """The images of some view positions."""
    rows = list(_rows(root, "metadata"))
    known = {row["ViewPosition"] for row in rows} - {""}
    for view in views:
        if view not in known:
            raise unknown("view position of MIMIC-CXR", view, sorted(known))
    return frozenset(row["dicom_id"] for row in rows if row["ViewPosition"] in views)


def _folder(root: Path, given: str | None, first: str) -> Path:
    """The folder of the reports, beside the images or where MIMIC-CXR's archive unpacks them."""
    folders = [root, root / "mimic-cxr-reports"] if given is None else [Path(given)]
    for folder in folders:
        if (folder / "files" / first).is_file():
            return folder / "files"
    raise InputError(
        f"{folders[0]}: its first report, files/{first}, is missing; name the folder with :reports=FOLDER"
    )


class MimicCXR:
    """One sample for each image, in the order of the table, or for each study; without images the
    samples are studies and have texts alone.

    A sample whose report lacks both sections raises BadSample("no-sections").
    """

    def __init__(
        self, name: str, root: Path | None, reports: Path, rows: Sequence[tuple[str, str]]
    ):
        self.name = name
        self.root = None if root is None else str(root)
        self.reports = str(reports)
        self._studies = Strings(study for study, _ in rows)
        self._images = Strings(image for _, image in rows)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        study = self._studies[index]
        path = Path(self.reports, f"{study}.txt")
        try:
            said = sections(path.read_text("utf-8", "replace"))
        except OSError:
            raise BadSample("no-report", f"{path} cannot be read") from None
        if not said:
            raise BadSample("no-sections", f"{path} has neither FINDINGS: nor IMPRESSION:")
        image = self._images[index]
        images = {}
        if self.root is not None:
            images["main"] = FileImage(str(Path(self.root, "files", study, f"{image}.jpg")))
        return Sample(
            key=image,
            source=self.name,
            images=images,
            texts=[Text(text=text, role=role) for role, text in said.items()],
        )

    def keys(self) -> Sequence[str]:
        """The ids of the images."""
        return self._images

    def schema(self) -> Schema:
        """Findings, impression, and images if they were found."""
        images = {} if self.root is None else {"images.main": Field(kind="image")}
        return images | {f"texts.{role}": Field(kind="text", optional=True) for role in ROLES}
