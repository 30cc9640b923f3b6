"""What readers share: the beginning of a file, the folder of its images, and a warning of a path that has the
name of data of the package."""

import logging
import os
import zipfile
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import IO

import numpy as np

from diptych.data.compact import is_folder
from diptych.errors import InputError
from diptych.spec import Spec

log = logging.getLogger(__name__)

_PEEK = 65_536  # bytes in which the first object of a list is


@cache  # once, however often the data are opened
def warn_of_path(name: str, what: str) -> None:
    """Warn that a file or folder here has the name of data of the package, and is not read."""
    path = Path(name)
    if path.exists():
        kind = "folder" if path.is_dir() else "file"
        log.warning("%s is the %s; write ./%s for the %s", name, what, name, kind)


def beginning(spec: Spec, *endings: str) -> bytes:
    """The first bytes of the file that a spec names, by which a reader knows its format; none of a
    folder, of a missing file, and where the name has none of the endings."""
    if not spec.name.lower().endswith(endings) or is_folder(spec):
        return b""
    if not os.path.isfile(spec.name):  # noqa: PTH113  (False for any text)
        return b""
    with Path(spec.name).open("rb") as file:
        return file.read(_PEEK)


def parquet_columns(spec: Spec) -> bytes:
    """The beginning of the metadata of a Parquet file, which names its columns; none of any other."""
    path = Path(spec.name)
    if not spec.name.lower().endswith(".parquet") or is_folder(spec) or not path.is_file():
        return b""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(4), "little")
        if file.read(4) != b"PAR1" or length > size - 8:
            return b""
        file.seek(size - 8 - length)
        return file.read(min(length, _PEEK))


def array_header(
    path: str, member: str, file: IO[bytes] | None = None
) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and the type of an array in an .npz file, which is not unpacked; `file` is the opened
    member, and is then at the array's first byte."""
    if file is None:
        with zipfile.ZipFile(path) as archive, archive.open(member) as opened:
            return array_header(path, member, opened)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, kind = read(file)
    return shape, kind


def inside(name: str) -> bool:
    """Whether the path of an image stays in the folder that it is relative to.

    >>> inside("images/1.png"), inside("../1.png"), inside("/1.png"), inside(" ")
    (True, False, False, False)
    """
    return name.strip() != "" and not os.path.isabs(name) and ".." not in Path(name).parts  # noqa: PTH117


def root_of(
    path: Path, firsts: Sequence[str], given: str | None, folders: Sequence[str]
) -> tuple[Path, str]:
    """The folder that contains one of the images, or folders of frames, `firsts`, and that image.

    It is the folder `given`, or one of `folders` up to three levels above the file.
    """
    above = list(path.absolute().parents)[:3]
    places = (
        [Path(given)]
        if given is not None
        else [base / folder for base in above for folder in ("", *folders)]
    )
    for place, first in product(places, firsts):
        if first and os.path.exists(place / first):  # noqa: PTH110  (False for any text)
            return place, first
    where = f"in {given}" if given is not None else "near it"
    raise InputError(
        f"{path}: its first image, {firsts[0]}, is not {where}; name the folder with :images=FOLDER"
    )


def folder_near(path: Path, root: Path, given: str | None, folders: Sequence[str]) -> str:
    """The folder of the files of OCR of a file `path` whose images are in `root`: the folder `given`, or
    one of `folders` beside either; "" if there is none.

    Raises InputError for a folder that is given and is not there.
    """
    if given is not None:
        if not Path(given).is_dir():
            raise InputError(f"{path}: {given} is no folder of OCR files; check :ocr=")
        return given
    places = [base / name for base in (path.parent, root, root.parent) for name in folders]
    return next((str(place) for place in places if place.is_dir()), "")
