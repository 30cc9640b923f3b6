"""ODIR-5K: photographs of both eyes of patients, with 8 findings, in the tables of its publication.

    ID,Patient Age,Patient Sex,Left-Fundus,Right-Fundus,Left-Diagnostic Keywords,…,N,D,G,C,A,H,M,O

The published table is a spreadsheet, to be saved as .csv. A sample is an eye. The table has the findings of
a patient, absent or present, and the keywords of each eye, which are its text of role `keywords`. A table
that has a row for each eye instead (`full_df.csv`) names its image in `filename` and its own findings in
`labels`. `class` is the combination of findings that are present (`_findings`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diptych.data.compact import Strings, is_folder
from diptych.data.sample import BadSample, Field, Sample, Schema, Text
from diptych.data.sources._files import beginning, inside, root_of
from diptych.data.sources._findings import ABSENT, PRESENT
from diptych.data.sources.radiographs import Radiographs
from diptych.data.sources.rows import CsvRows
from diptych.spec import Spec, configure

FORMAT = "odir"
_FIRST = "ID,Patient Age,Patient Sex,Left-Fundus,Right-Fundus,"
FINDINGS = {
    "N": "normal",
    "D": "diabetes",
    "G": "glaucoma",
    "C": "cataract",
    "A": "age related macular degeneration",
    "H": "hypertension",
    "M": "myopia",
    "O": "other",
}
_FOLDERS = ("preprocessed_images", "ODIR-5K_Training_Dataset", "Training Images")


@dataclass(frozen=True, kw_only=True)
class ODIROptions:
    """Options of a table: `images` is the folder of the images."""

    images: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a .csv whose first line is ODIR's."""
    if is_folder(spec):
        return False
    return beginning(spec, ".csv").decode("utf-8-sig", "replace").startswith(_FIRST)


def open(spec: Spec) -> "ODIR":
    """Open `full_df.csv[:images=FOLDER]`. Raises InputError for a table without a readable row, and a
    folder without the first image."""
    options = configure(ODIROptions, spec.options, f"source {spec.name!r}")
    eyes: dict[str, tuple[list[int], str]] = {}
    damage = {}
    for number, row in enumerate(CsvRows(spec.name).scan(), 1):
        place = f"{spec.name}:{number}"
        if isinstance(row, BadSample):
            damage[place] = row.reason
            continue
        for path, values, keywords in _eyes(row):
            if not inside(path):
                damage[place] = "columns"
            elif ABSENT - 1 in values:
                damage[place] = "label"
            else:
                eyes[path] = (values, keywords)
    paths = list(eyes)
    folder = Path(spec.name).parent
    if paths:
        folder, _ = root_of(Path(spec.name), paths[:1], options.images, _FOLDERS)
    values = np.array([values for values, _ in eyes.values()])
    words = [keywords for _, keywords in eyes.values()]
    return ODIR(spec.name, folder, paths, list(FINDINGS.values()), values, damage, words)


def _eyes(row: Mapping[str, str]) -> Iterator[tuple[str, list[int], str]]:
    """Path, findings and keywords of the eyes in a row; a finding that is no 0 or 1 is -1."""
    own = row.get("filename")
    marks = {"0": ABSENT, "1": PRESENT}
    values = [marks.get(row.get(letter, ""), -1) for letter in FINDINGS]
    if own is not None:
        named = re.findall("[A-Z]", row.get("labels", ""))
        unknown = not named or not set(named) <= FINDINGS.keys()
        values = [-1 if unknown else int(letter in named) for letter in FINDINGS]
    for side in ("Left", "Right"):
        path = row.get(f"{side}-Fundus", "")
        if own in (None, path):
            yield path, values, row.get(f"{side}-Diagnostic Keywords", "")


class ODIR(Radiographs):
    """One sample for each eye, in order of rows; its file name is the key."""

    def __init__(
        self,
        name: str,
        folder: Path,
        paths: Sequence[str],
        names: Sequence[str],
        values: np.ndarray,
        damage: Mapping[str, str],
        keywords: Sequence[str],
    ):
        super().__init__(name, folder, paths, names, values, damage)
        self._keywords = Strings(keywords)

    def __getitem__(self, index: int) -> Sample:
        words = self._keywords[index]
        texts = [Text(text=words, role="keywords")] if words else []
        return replace(super().__getitem__(index), texts=texts)

    def schema(self) -> Schema:
        """Images, keywords, the combination of findings, and each of them."""
        return {**super().schema(), "texts.keywords": Field(kind="text", optional=True)}
