"""A folder of embeddings as a source: its rows, with their captions and kept columns, and the images
of the data that were embedded."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from diptych.data.sample import BadSample, Box, EncodedImage, Field, Sample, Schema, Source, Text
from diptych.data.sources import open_source
from diptych.embeddings.columns import ALWAYS
from diptych.embeddings.hits import Hit
from diptych.embeddings.index import Index, read_table
from diptych.embeddings.layout import Manifest
from diptych.errors import InputError
from diptych.viewer.checked import fields
from diptych.viewer.subject import Subject


class Rows:
    """The rows of a folder of embeddings. A column of numbers is a label, one of texts a text of its
    role; `source` is where the data lie now, by default where they lay.

    Rows have no image if the data are not there, or others are: `problem` says why. Raises
    InputError as `Index.open`.
    """

    def __init__(self, folder: str | Path, source: str | None = None):
        self.index = Index.open(folder, exact=True)
        self.name = str(folder)
        self.problem: str | None = None
        self._source = source
        self._sources: dict[Path, Source | None] = {}
        total = len(self.index) + len(self.index.removed)
        self._numbers = np.delete(np.arange(total), list(self.index.removed))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Sample:
        row = int(self._numbers[index])
        hit = self._hit(row)
        columns = {name: value for name, value in hit.columns.items() if value is not None}
        texts = [] if hit.caption is None else [Text(text=hit.caption)]
        texts += [
            Text(text=value, role=name) for name, value in columns.items() if isinstance(value, str)
        ]
        image = self._image(row, hit)
        return Sample(
            key=hit.key,
            source=self.name,
            images={} if image is None else {"main": image},
            texts=texts,
            labels={name: value for name, value in columns.items() if not isinstance(value, str)},
            boxes=[] if hit.box is None else [Box(xyxy=hit.box, text=hit.caption or "")],
        )

    def keys(self) -> Sequence[str]:
        """The keys of the rows."""
        return self._keys

    @cached_property
    def _keys(self) -> list[str]:
        keys: list[str] = []
        for path in self.index.metadata:
            keys += read_table(path, ("key",)).column("key").to_pylist()
        return [keys[row] for row in self._numbers]

    def schema(self) -> Schema:
        """The caption and the kept columns, the image if rows are no texts, and the box of regions."""
        found: dict[str, Field] = {}
        if self.index.manifest.rows != "texts":
            found["images.main"] = Field(kind="image", optional=True)
        if self.index.manifest.rows == "regions":
            found["boxes"] = Field(kind="box")
        found["texts.caption"] = Field(kind="text", optional=True)
        for name, kind in self.index.kinds.items():
            if name in ALWAYS:
                continue
            field = f"texts.{name}" if kind == "text" else f"labels.{name}"
            found[field] = Field(kind=kind, optional=True)
        return found

    def _hit(self, row: int) -> Hit:
        return self.index.hits(torch.zeros(1), torch.tensor([row]))[0]

    def _image(self, row: int, hit: Hit) -> EncodedImage | None:
        if self.index.manifest.rows == "texts":
            return None
        source = self._opened(self.index.folder_of(row))
        if source is None:
            return None
        try:
            sample = source[hit.position] if hit.position < len(source) else None
        except BadSample:
            return None
        if sample is None or sample.key != hit.key:
            self.problem = f"{source.name} has changed since it was embedded"
            return None
        return sample.images.get("main")

    def _opened(self, folder: Path) -> Source | None:
        if folder not in self._sources:
            own = folder.resolve() == self.index.folder.resolve()
            spec = self._source if own and self._source else Manifest.read(folder).source
            try:
                self._sources[folder] = open_source(spec)
            except InputError as error:
                self.problem = str(error)
                self._sources[folder] = None
        return self._sources[folder]


def of_embeddings(
    folder: str | Path, *, source: str | None = None, warn: Callable[[str], None]
) -> Subject:
    """Return the subject of a folder of embeddings: its rows. `warn` is told why they have no
    images, if so."""
    rows = Rows(folder, source)
    manifest = rows.index.manifest
    if manifest.rows != "texts" and "main" not in rows[0].images:
        why = rows.problem or "the first row's image is not there"
        warn(f"{folder}: no images to show: {why}; name their data with --source")
    return Subject(
        title=str(folder),
        lead=(
            f"{len(rows):,} {manifest.rows} of {manifest.source}, embedded by {manifest.model} in "
            f"{manifest.dimension:,} dimensions."
        ),
        sources=[rows],
        after=[fields(rows)],
    )
