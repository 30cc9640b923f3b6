"""A new folder with a file for each image."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diptych.errors import InputError


@contextmanager
def new_folder(out: Path, option: str) -> Iterator[Path]:
    """Yield a hidden folder, which is the new folder `out` at the end if no error was raised.

    Raises InputError for a folder that is not empty; `option` is what names it on the command line.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} exists and is not an empty folder; name a new one with {option}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as hidden:
        folder = Path(hidden) / out.name
        folder.mkdir()
        yield folder
        folder.replace(out)


class FileNames:
    """File names for images, each of which only one has.

    >>> names = FileNames()
    >>> names.free("a/cat.jpg"), names.free("b/cat.jpg")
    ('cat.png', 'cat-2.png')
    """

    def __init__(self) -> None:
        self.used: set[str] = set()

    def free(self, name: str) -> str:
        """The name of a PNG file for an image, given by its file or key."""
        stem = re.sub(r"[^\w.-]+", "_", Path(name).stem).lstrip(".") or "image"
        number = 1
        file = f"{stem}.png"
        while file.lower() in self.used:
            number += 1
            file = f"{stem}-{number}.png"
        self.used.add(file.lower())
        return file
