"""The text files of Flickr8k and Flickr30k, with five lines of captions per image.

Flickr8k.token.txt, results_20130124.token   1000268201_693b08cb0e.jpg#0<TAB>A child in a pink dress …
captions.txt                                 image,caption
results.csv                                  image_name| comment_number| comment
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.compact import is_folder
from diptych.data.sample import BadSample
from diptych.data.sources.rows import CsvRows
from diptych.data.sources.table import Table, TableOptions
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "flickr"
_FOLDERS = (
    "Images",
    "images",
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "flickr30k-images",
    "flickr30k_images",
)


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`."""
    name = Path(spec.name).name
    if is_folder(spec):
        return False
    return (
        name.endswith((".token", ".token.txt")) or name == "captions.txt" or _is_results(spec.name)
    )


def open(spec: Spec) -> Table:
    """Open a text file of Flickr8k or 30k; `:images=FOLDER` if the images are not in a usual place
    next to it."""
    options = configure(FlickrOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    if path.name == "captions.txt":
        rows = CsvRows(spec.name)
        image = "image"
        text = "caption"
    elif _is_results(spec.name):
        rows = CsvRows(spec.name, delimiter="|", quoted=False)
        image = "image_name"
        text = "comment"
    else:
        rows = _TokenRows(spec.name)
        image = "image"
        text = "caption"
    root = options.images or _root(path, rows, image)
    return Table(spec.name, rows, TableOptions(image=image, text=text, root=root))


@dataclass(frozen=True, kw_only=True)
class FlickrOptions:
    """Options of a source of Flickr's format."""

    images: str | None = None


class _TokenRows(CsvRows):
    """`image.jpg#number<TAB>caption`, without a header; quotes are ordinary characters."""

    def __init__(self, path: str):
        super().__init__(path, delimiter="\t", columns=("image", "caption"), quoted=False)

    def _row(self, data: bytes, index: int) -> dict[str, Any]:
        row = super()._row(data, index)
        return {**row, "image": row.get("image", "").partition("#")[0]}


def _is_results(name: str) -> bool:
    path = Path(name)
    if path.name != "results.csv" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline().lstrip(b"\xef\xbb\xbf").startswith(b"image_name|")


def _root(path: Path, rows: CsvRows, image: str) -> str:
    """The folder near the text file that contains the first image."""
    first = next(
        (row[image] for row in rows.scan() if not isinstance(row, BadSample) and row.get(image)), ""
    )
    beside = [
        path.parent,
        *(path.parent / name for name in _FOLDERS),
        *(path.parent / name / name for name in _FOLDERS),
    ]
    for folder in beside:
        if (folder / first).is_file():
            return str(folder)
    raise InputError(
        f"{path}: its first image, {first}, is not beside it; name the folder with :images=FOLDER"
    )
