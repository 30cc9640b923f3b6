"""Documents in which images, or clips, and texts alternate, as one sample each.

Dimensions: T media of a document, S texts.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.clips import FRAMES, Clip, FrameStack, check_frames
from diptych.data.decode import UNTIMED, Span, refuse_outside
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, EncodedImage, Field, Sample, Schema, Text, image_of
from diptych.data.sources._files import root_of
from diptych.data.sources.folder import frames_in
from diptych.data.sources.rows import Rows
from diptych.errors import InputError

ROLE = "document"
_TRIED = 1000  # images, of which many are no longer on the web


@dataclass(frozen=True, kw_only=True)
class Document:
    """The files of a document's images, its texts in order, for each text the numbers of the images
    that belong to it, and the similarities (T, S) if there are some. With `spans` the media are these
    parts of films."""

    files: Sequence[str]
    texts: Sequence[str]
    owners: Sequence[Sequence[int]]
    similarity: np.ndarray | None = None
    spans: Sequence[Span] | None = None


@dataclass(frozen=True, kw_only=True)
class DocumentsOptions:
    """Options of documents: `images` is the folder of their images."""

    images: str | None = None


def part_of(path: str, span: Span, frames: int) -> Clip | FrameStack:
    """A part of a film, which is a video, an animation or a folder of frames, as a clip of so many
    frames. Raises BadSample for a part behind the end of a folder, whose frames are `UNTIMED` long."""
    if not os.path.isdir(path):  # noqa: PTH112  (False for any text)
        return Clip(FileImage(path), frames, span)
    shown = frames_in(path)
    refuse_outside(span, len(shown) * UNTIMED / 1000)
    first, last = (round(value * 1000 / UNTIMED) for value in span)
    return FrameStack(shown[first : max(last, first + 1)], frames)


@dataclass(frozen=True, kw_only=True)
class FilmsOptions(DocumentsOptions):
    """Options of documents of clips: `images` is the folder of their films, `frames` how many frames of
    a clip are read."""

    frames: int = FRAMES

    def __post_init__(self) -> None:
        check_frames(self.frames, "a source of films")


class Documents:
    """One sample per document, in order; its number is the key. Images are named main, page2, …; a
    text's attribute `image` names those that belong to it, joined by +. Of documents with spans they are
    clips of `frames` frames.

    Rows that cannot be read, or name no image or no text, are counted in `damage`. Images that are not
    in the folder are left out; a document without any is damaged. Raises InputError for a file without
    documents, and for a folder without one of the first images.
    """

    def __init__(
        self,
        name: str,
        rows: Rows,
        read: Callable[[Mapping[str, Any]], Document],
        folder: str | None,
        form: str,
        *,
        frames: int = FRAMES,
        folders: Sequence[str] = ("images",),
    ):
        self.name = name
        self.frames = frames
        self._rows = rows
        self._read = read
        self.damage: dict[str, str] = {}
        good = []
        files: list[str] = []
        self._most = 0
        self._similar = False
        for number, row in enumerate(rows.scan()):
            try:
                if isinstance(row, BadSample):
                    raise row
                found = read(row)
            except BadSample as bad:
                self.damage[f"{name}:{number + 1}"] = bad.reason
                continue
            good.append(number)
            files += found.files if len(files) < _TRIED else ()
            self._most = max(self._most, len(found.files))
            self._similar = self._similar or found.similarity is not None
        if not good:
            raise InputError(
                f"{name}: no line is a document of {form}; compare it with its own files"
            )
        self._good = np.array(good, np.int64)
        self.root = str(root_of(Path(name), files, folder, folders)[0])

    def __len__(self) -> int:
        return len(self._good)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        found = self._read(self._rows[int(self._good[index])])
        paths = [os.path.join(self.root, file) for file in found.files]  # noqa: PTH118
        is_there = os.path.isfile if found.spans is None else os.path.exists
        there = [at for at, path in enumerate(paths) if is_there(path)]
        if not there:
            raise BadSample("no-image", f"none of its {len(paths)} images is in {self.root}")
        roles = {at: image_of(page) for page, at in enumerate(there)}
        images: dict[str, EncodedImage] = {
            roles[at]: FileImage(paths[at])
            if found.spans is None
            else part_of(paths[at], found.spans[at], self.frames)
            for at in there
        }
        texts = [
            Text(
                text=text,
                role=ROLE,
                attrs={"image": "+".join(roles[at] for at in own if at in roles)},
            )
            for text, own in zip(found.texts, found.owners, strict=True)
        ]
        arrays = {} if found.similarity is None else {"similarity": found.similarity[there]}
        return Sample(
            key=self.keys()[index], source=self.name, images=images, texts=texts, arrays=arrays
        )

    def keys(self) -> Sequence[str]:
        """The numbers of the documents in their file."""
        return [f"{number:08d}" for number in self._good.tolist()]

    def schema(self) -> Schema:
        """The images, of which a document has one at least, the texts, and similarities if there are
        some."""
        images = {
            f"images.{image_of(page)}": Field(kind="image", optional=page > 0)
            for page in range(self._most)
        }
        arrays = {"arrays.similarity": Field(kind="array", optional=True)} if self._similar else {}
        return {**images, f"texts.{ROLE}": Field(kind="text"), **arrays}
