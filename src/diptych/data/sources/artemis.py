"""ArtEmis: paintings of WikiArt with emotions, and utterances that explain them.

artemis_dataset_release_v0.csv    art_style, painting, emotion, utterance, and others: one person a row
wikiart/ART_STYLE/PAINTING.jpg    the images

Both versions have these columns. A column `split`, as the authors' preprocessing writes it, chooses rows:
`split=train+val`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.data.compact import Strings
from diptych.data.emotions import majority
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, Field, Sample, Schema, Text
from diptych.data.sources._files import beginning, inside, root_of
from diptych.data.sources.rows import open_rows
from diptych.errors import InputError, unknown
from diptych.spec import Spec, configure

FORMAT = "artemis"
COLUMNS = ("art_style", "painting", "emotion", "utterance")
_SPLIT = "split"


@dataclass(frozen=True, kw_only=True)
class ArtEmisOptions:
    """Options of a file: `images` is the folder with WikiArt's styles, `split` the values of the column
    `split` whose rows are read (None: all)."""

    images: str | None = None
    split: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the names of its columns."""
    first = beginning(spec, ".csv").partition(b"\n")[0].decode("utf-8", "replace")
    columns = {name.strip().strip('"') for name in first.lstrip("\ufeff").split(",")}
    return columns.issuperset(COLUMNS)


def open(spec: Spec) -> "ArtEmis":
    """Open `FILE.csv[:images=FOLDER][:split=A+B]`. Raises InputError for a file without an utterance, an
    unknown split, and a folder without the first image."""
    options = configure(ArtEmisOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    wanted = None if options.split is None else set(options.split.split("+"))
    rows: dict[str, list[tuple[str, str]]] = {}
    damage: dict[str, str] = {}
    splits: set[str] = set()
    for number, row in enumerate(open_rows(spec.name, "comma").scan(), 2):
        place = f"{path}:row {number}"
        if isinstance(row, BadSample):
            damage[place] = row.reason
            continue
        if wanted is not None:
            split = str(row.get(_SPLIT, ""))
            splits.add(split)
            if split not in wanted:
                continue
        cells = [str(row.get(name, "")).strip() for name in COLUMNS]
        if not all(cells):
            damage[place] = "empty"
            continue
        style, painting, emotion, utterance = cells
        name = f"{style}/{painting}.jpg"
        if not inside(name):
            damage[place] = "outside"
            continue
        rows.setdefault(name, []).append((emotion, utterance))
    for split in sorted(wanted or ()):
        if split not in splits:
            raise unknown(f"split of {path}", split, sorted(splits - {""}))
    if not rows:
        raise InputError(
            f"{path}: no row has a style, a painting, an emotion and an utterance; compare it with ArtEmis' files"
        )
    root, _ = root_of(path, [next(iter(rows))], options.images, ("wikiart", "images"))
    return ArtEmis(spec.name, root, rows, damage)


class ArtEmis:
    """One sample per painting, in the order of the file, with the emotions that people felt and why.

    The key is the style and the painting. The label `majority` is that of more than half of the people, -1
    if there is none. Rows that cannot be read are counted in `damage`.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        rows: Mapping[str, Sequence[tuple[str, str]]],
        damage: Mapping[str, str],
    ):
        self.name = name
        self.root = str(root)
        self.damage = dict(damage)
        self._paths = Strings(rows)
        said = [pair for pairs in rows.values() for pair in pairs]
        self._emotions = tuple(sorted({emotion for emotion, _ in said}))
        numbers = {emotion: number for number, emotion in enumerate(self._emotions)}
        self._felt = np.array([numbers[emotion] for emotion, _ in said], np.int16)
        self._said = Strings(utterance for _, utterance in said)
        self._starts = np.cumsum([0, *map(len, rows.values())])
        most = [majority([emotion for emotion, _ in pairs]) for pairs in rows.values()]
        self._most = np.array([-1 if name is None else numbers[name] for name in most], np.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        path = self._paths[index]
        texts = []
        for row in range(self._starts[index], self._starts[index + 1]):
            texts.append(Text(text=self._emotions[self._felt[row]], role="emotion"))
            texts.append(Text(text=self._said[row], role="explanation"))
        return Sample(
            key=path.removesuffix(".jpg"),
            source=self.name,
            images={"main": FileImage(os.path.join(self.root, path))},  # noqa: PTH118
            texts=texts,
            labels={"majority": int(self._most[index])},
        )

    def keys(self) -> Sequence[str]:
        """The styles with the paintings."""
        return [self._paths[at].removesuffix(".jpg") for at in range(len(self))]

    def labels(self, name: str) -> np.ndarray:
        """The label `majority` of all samples (N,)."""
        assert name == "majority"
        return self._most

    def schema(self) -> Schema:
        """Paintings, emotions with explanations, and the emotion of most people."""
        return {
            "images.main": Field(kind="image"),
            "texts.emotion": Field(kind="text"),
            "texts.explanation": Field(kind="text"),
            "labels.majority": Field(kind="int", classes=self._emotions),
        }
