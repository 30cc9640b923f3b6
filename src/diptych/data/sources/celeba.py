"""CelebA: faces with 40 attributes, in the folders and lists of its publication.

    list_attr_celeba.txt         number of images, names of attributes, then `000001.jpg -1 1 …`
    list_eval_partition.txt      000001.jpg 0     0 train, 1 val, 2 test
    img_align_celeba/000001.jpg

The lists may also be in `Anno` and `Eval`, and the images in `Img/img_align_celeba`. Each attribute is a
label, absent or present. `attributes=Eyeglasses+Wearing_Hat` keeps some, and adds the label `class`, the
combination of those that are present (`_findings`), "neither" without one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.data.compact import Strings, is_folder
from diptych.data.images import FileImage
from diptych.data.sample import Field, Sample, Schema
from diptych.data.sources._files import inside, root_of
from diptych.data.sources._findings import Findings
from diptych.errors import InputError, brief
from diptych.spec import Spec, configure, several

FORMAT = "celeba"
_ATTRIBUTES = "list_attr_celeba.txt"
_PARTS = "list_eval_partition.txt"
_SPLITS = ("train", "val", "test")
_IMAGES = "img_align_celeba"
_NONE = "neither"


@dataclass(frozen=True, kw_only=True)
class CelebAOptions:
    """Options of the folder: `split` is train, val or test (None: all); `attributes` some of them,
    joined by +; `images` the folder of the images."""

    split: str | None = None
    attributes: str | None = None
    images: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a folder with CelebA's list of attributes."""
    return is_folder(spec) and _list(Path(spec.name), _ATTRIBUTES) is not None


def open(spec: Spec) -> "CelebA":
    """Open `FOLDER[:split=train|val|test][:attributes=A+B][:images=FOLDER]`. Raises InputError for a
    damaged list, and a folder without the first image."""
    options = configure(CelebAOptions, spec.options, f"source {spec.name!r}")
    root = Path(spec.name)
    names, files, values = _attributes(root)
    kept = np.arange(len(files))
    if options.split is not None:
        parts = _parts(root)
        chosen = several(f"split of {root}", options.split, _SPLITS)
        wanted = [_SPLITS.index(name) for name in chosen]
        kept = np.flatnonzero(np.isin([parts.get(name, -1) for name in files], wanted))
        if not len(kept):
            raise InputError(f"{root}: no image is of the split {options.split}; choose another")
    columns = list(range(len(names)))
    if options.attributes is not None:
        chosen = several(f"attribute of {root}", options.attributes, names)
        columns = [names.index(name) for name in chosen]
    findings = Findings(
        [names[at] for at in columns],
        values[kept][:, columns],
        normal=_NONE,
        combined=options.attributes is not None,
    )
    files = [files[at] for at in kept]
    folder, _ = root_of(root / _ATTRIBUTES, files[:1], options.images, (_IMAGES, f"Img/{_IMAGES}"))
    return CelebA(str(spec), folder, files, findings)


def _list(root: Path, name: str) -> Path | None:
    """A list of the folder, or of the folder in which its publication has it."""
    places = (root / name, root / "Anno" / name, root / "Eval" / name)
    return next((path for path in places if path.is_file()), None)


def _attributes(root: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Names of attributes (F), files (N), and values (N, F): 0 or 1."""
    path = _list(root, _ATTRIBUTES)
    assert path is not None, "claims has found it"
    try:
        with path.open(encoding="utf-8") as file:
            count = int(file.readline())
            names = file.readline().split()
            rows = [line.split() for line in file if line.strip()]
        values = np.array([row[1:] for row in rows], dtype=np.int8)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is no list of attributes ({brief(error)}); copy it again"
        ) from None
    files = [row[0] for row in rows]
    if values.shape != (count, len(names)) or not np.isin(values, (-1, 1)).all() or not count:
        raise InputError(
            f"{path} announces {count} images with {len(names)} attributes of -1 or 1, and holds others; copy it again"
        )
    if outside := next((name for name in files if not inside(name)), None):
        raise InputError(f"{path} names {outside!r}, which is outside of the folder; copy it again")
    return names, files, (values > 0).astype(np.int8)


def _parts(root: Path) -> dict[str, int]:
    """The number of the split of each file."""
    path = _list(root, _PARTS)
    if path is None:
        raise InputError(f"{root} has no {_PARTS}; copy it from CelebA, or leave out split=")
    try:
        rows = [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]
        return {name: int(number) for name, number in rows}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no list of splits ({brief(error)}); copy it again") from None


class CelebA:
    """One sample for each image, in the order of the list; its file name is the key."""

    def __init__(self, name: str, folder: Path, files: Sequence[str], findings: Findings):
        self.name = name
        self.folder = str(folder)
        self._files = Strings(files)
        self._findings = findings

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        name = self._files[index]
        return Sample(
            key=name,
            source=self.name,
            images={"main": FileImage(str(Path(self.folder, name)))},
            labels=self._findings.of(index),
        )

    def keys(self) -> Sequence[str]:
        """The names of the files."""
        return self._files

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,)."""
        return self._findings.labels(name)

    def schema(self) -> Schema:
        """Images, and their attributes."""
        return {"images.main": Field(kind="image"), **self._findings.schema()}
