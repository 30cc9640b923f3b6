"""What `diptych` without arguments says about the working directory, from the names in it alone."""

import os
import shlex
from collections.abc import Iterable
from itertools import islice
from pathlib import PurePath

from diptych.data.endings import IMAGES, TABLES, ending

_MOST = 10_000  # names that are looked at
_MODEL = "openclip:ViT-B-32/laion2b_s34b_b79k"


def here() -> str:
    """The commands that fit the working directory, or ""."""
    try:
        with os.scandir() as entries:
            return "\n\n".join(fitting(entry.name for entry in islice(entries, _MOST)))
    except OSError:  # it cannot be listed
        return ""


def fitting(names: Iterable[str]) -> list[str]:
    """The commands that fit a folder with these names, a paragraph for each kind of thing in it.

    >>> print(*fitting(["diptych.json", "img_emb"]))
    This folder holds embeddings. Search them:
      diptych search . 'two dogs on a beach'
      diptych serve .
    """
    names = sorted(names)
    if "diptych.json" in names:
        return _paragraph(
            "This folder holds embeddings. Search them",
            "search . 'two dogs on a beach'",
            "serve .",
        )
    if "model.json" in names:
        return _paragraph("This folder holds a run. See what it is", "info .")
    images = {PurePath(name).stem for name in names if ending(name) in IMAGES}
    captioned = any(name.endswith(".txt") and PurePath(name).stem in images for name in names)
    tables = [name for name in names if name.lower().endswith(TABLES)]
    tars = [name for name in names if name.lower().endswith(".tar")]
    found = []
    if images:
        found += _paragraph(
            "There are images here. Search them by words",
            f"embed {_MODEL} . --out ../emb",
            "search ../emb 'two dogs on a beach'",
        )
    if captioned:
        found += _tuned("There are images with captions here", ".", "../mine")
    if tables:
        found += _tuned(f"There is a table here, {tables[0]}", tables[0], "mine")
    if tars:
        found += _tuned("There are tar files here", "*.tar", "mine")
    return found


def _tuned(what: str, data: str, out: str) -> list[str]:
    data = shlex.quote(data)
    return _paragraph(
        f"{what}. Check the data, then tune a model on it",
        f"check {data}",
        f"train clip --init {_MODEL} --data {data} --out {out}",
    )


def _paragraph(what: str, *commands: str) -> list[str]:
    return ["\n".join([f"{what}:", *(f"  diptych {command}" for command in commands)])]
