"""What readers of annotated pages share: folders with a JSON file and an image for each page."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diptych.data.compact import Strings, is_folder
from diptych.data.images import FileImage
from diptych.data.sample import Box, Field, Sample, Schema, Text
from diptych.data.sources.records import json_of
from diptych.errors import InputError
from diptych.spec import Spec

_ENDINGS = (".png", ".jpg", ".jpeg")
_PEEK = 65_536  # bytes


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A text on a page, its sides in pixels, and its class, a name."""

    text: str
    box: tuple[float, float, float, float]
    kind: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """The pieces of a page in order, its text, and what can be asked with the answers."""

    pieces: Sequence[Piece]
    text: str
    asked: Sequence[tuple[str, str]] = field(default_factory=tuple)


def holds(spec: Spec, folder: str, mark: bytes) -> bool:
    """Whether a spec is a folder with such a `folder` of JSON files, of which the first one has a mark."""
    if not is_folder(spec):
        return False
    first = next(iter(sorted(Path(spec.name, folder).glob("*.json"))), None)
    if first is None:
        return False
    with first.open("rb") as file:
        return mark in file.read(_PEEK)


def open_pages(
    name: str, files: str, images: str, read: Callable[[Any], Page], classes: Sequence[str] = ()
) -> "Pages":
    """Open the pages of a folder whose JSON files are in `files` and images in `images`. `read` makes a
    page of a file's content; it raises KeyError, TypeError or ValueError where it cannot. Classes are
    those given, or those that occur.

    Raises InputError if there is no page that can be read.
    """
    pages = {}
    damage = {}
    for file in sorted(Path(name, files).glob("*.json")):
        image = next(
            (each for each in _images(Path(name, images), file.stem) if each.exists()), None
        )
        if image is None:
            damage[str(file)] = "missing"
            continue
        try:
            pages[str(image)] = read(json_of(file))
        except InputError:
            damage[str(file)] = "json"
        except (AttributeError, KeyError, TypeError, ValueError):
            damage[str(file)] = "columns"
    if not pages:
        raise InputError(
            f"{name}: no page in {files}/ has both words with boxes and an image in {images}/; compare it with the "
            "published files"
        )
    return Pages(name, pages, damage, classes)


def _images(folder: Path, stem: str) -> Sequence[Path]:
    return [folder / f"{stem}{ending}" for ending in _ENDINGS]


class Pages:
    """One sample for each page, in the order of the names: its pieces as boxes with text and class, all
    text as `ocr`, and questions with answers where there are any. Pages that cannot be read are counted
    in `damage`."""

    def __init__(
        self,
        name: str,
        pages: Mapping[str, Page],
        damage: Mapping[str, str],
        classes: Sequence[str] = (),
    ):
        self.name = name
        self.damage = dict(damage)
        self._images = Strings(pages)
        self._rows = Strings(json.dumps(asdict(page)) for page in pages.values())
        found = {piece.kind for page in pages.values() for piece in page.pieces}
        self.classes = tuple(classes) or tuple(sorted(found))
        self._asked = [bool(page.asked) for page in pages.values()]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        page = json.loads(self._rows[index])
        texts = [Text(text=page["text"], role="ocr")] if page["text"] else []
        for question, answer in page["asked"]:
            texts += [Text(text=question, role="question"), Text(text=answer, role="answer")]
        return Sample(
            key=self._key(index),
            source=self.name,
            images={"main": FileImage(self._images[index])},
            texts=texts,
            boxes=[
                Box(
                    xyxy=tuple(piece["box"]),
                    text=piece["text"],
                    label=self.classes.index(piece["kind"]),
                )
                for piece in page["pieces"]
            ],
        )

    def _key(self, index: int) -> str:
        return Path(self._images[index]).stem

    def keys(self) -> Sequence[str]:
        """The names of the pages without an ending."""
        return [self._key(index) for index in range(len(self))]

    def schema(self) -> Schema:
        """Pages, their text, boxes with classes, and questions with answers if there are any."""
        asked = Field(kind="text", optional=not all(self._asked))
        questions = {"texts.question": asked, "texts.answer": asked} if any(self._asked) else {}
        return {
            "images.main": Field(kind="image"),
            "texts.ocr": Field(kind="text", optional=True),
            **questions,
            "boxes": Field(kind="box", classes=self.classes),
        }
