"""Documents of the web in which images and texts alternate, as one sample each.

Dimensions: T images of a document, S texts.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.images import FileImage
from diptych.data.sample import BadSample, EncodedImage, Field, Sample, Schema, Text, image_of
from diptych.data.sources._files import root_of
from diptych.data.sources.rows import Rows
from diptych.errors import InputError

ROLE = "document"
_TRIED = 1000  # images, of which many are no longer on the web


@dataclass(frozen=True, kw_only=True)
class Document:
    """The files of a document's images, its texts in order, for each text the numbers of the images
    that belong to it, and the similarities (T, S) if there are some."""

    files: Sequence[str]
    texts: Sequence[str]
    owners: Sequence[Sequence[int]]
    similarity: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class DocumentsOptions:
    """Options of documents: `images` is the folder of their images."""

    images: str | None = None


class Documents:
    """One sample per document, in order; its number is the key. Images are named main, page2, …; a
    text's attribute `image` names those that belong to it, joined by +.

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
    ):
        self.name = name
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
        self.root = str(root_of(Path(name), files, folder, ("images",))[0])

    def __len__(self) -> int:
        return len(self._good)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        found = self._read(self._rows[int(self._good[index])])
        paths = [os.path.join(self.root, file) for file in found.files]  # noqa: PTH118
        there = [at for at, path in enumerate(paths) if os.path.isfile(path)]  # noqa: PTH113
        if not there:
            raise BadSample("no-image", f"none of its {len(paths)} images is in {self.root}")
        roles = {at: image_of(page) for page, at in enumerate(there)}
        images: dict[str, EncodedImage] = {roles[at]: FileImage(paths[at]) for at in there}
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
