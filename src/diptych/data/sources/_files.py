"""What readers of published files share: the beginning of a file, and the folder of its images."""

import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from diptych.data.compact import is_folder
from diptych.errors import InputError
from diptych.spec import Spec

_PEEK = 65_536  # bytes in which the first object of a list is


def beginning(spec: Spec, *endings: str) -> bytes:
    """The first bytes of the file that a spec names, by which a reader knows its format; none of a
    folder, of a missing file, and where the name has none of the endings."""
    if not spec.name.lower().endswith(endings) or is_folder(spec):
        return b""
    if not os.path.isfile(spec.name):  # noqa: PTH113  (False for any text)
        return b""
    with Path(spec.name).open("rb") as file:
        return file.read(_PEEK)


def inside(name: str) -> bool:
    """Whether the path of an image stays in the folder that it is relative to.

    >>> inside("images/1.png"), inside("../1.png"), inside("/1.png"), inside(" ")
    (True, False, False, False)
    """
    return name.strip() != "" and not os.path.isabs(name) and ".." not in Path(name).parts  # noqa: PTH117


def root_of(
    path: Path, firsts: Sequence[str], given: str | None, folders: Sequence[str]
) -> tuple[Path, str]:
    """The folder that contains one of the images `firsts`, and that image.

    It is the folder `given`, or one of `folders` up to three levels above the file.
    """
    above = list(path.absolute().parents)[:3]
    places = (
        [Path(given)]
        if given is not None
        else [base / folder for base in above for folder in ("", *folders)]
    )
    for place, first in product(places, firsts):
        if os.path.isfile(place / first):  # noqa: PTH113  (False for any text)
            return place, first
    where = f"in {given}" if given is not None else "near it"
    raise InputError(
        f"{path}: its first image, {firsts[0]}, is not {where}; name the folder with :images=FOLDER"
    )
