"""`glyphs`: drawings of 1,632 everyday concepts in up to four designs, part of the package.

The images and concepts are those of `data.drawings`. Licences and attributions:
data/glyphs/LICENSES.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from diptych.data.drawings import DESIGNS, HELD_OUT, GlyphImage, GlyphMask, concepts, names
from diptych.data.sample import Field, Sample, Schema, Text
from diptych.data.sources._files import warn_of_path
from diptych.errors import unknown
from diptych.spec import Spec, configure, several

FORMAT = "glyphs"
SPLITS = ("train", "val", "test")  # of concepts, by a hash: test concepts are unseen in any design


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`."""
    return spec.name == "glyphs"


def open(spec: Spec) -> "Glyphs":
    """Open
    `glyphs[:split=train|val|test|train+val|all][:design=noto+fluent-flat+emojione+twemoji|all]
    [:names=de+ja|all]`.

    The default split is train; the default designs are all but the held-out one, twemoji. `names`
    adds the names in these languages, as texts of the role `de`, `ja`, …. Warns of a file or folder
    of that name.
    """
    warn_of_path(FORMAT, "set of drawings")
    options = configure(GlyphsOptions, spec.options, "source 'glyphs'")
    return Glyphs(
        splits=several("split of glyphs", options.split, SPLITS),
        designs=several("design of glyphs", options.design, DESIGNS),
        languages=several("language of glyphs", options.names, sorted(names()[0]))
        if options.names
        else (),
    )


@dataclass(frozen=True, kw_only=True)
class GlyphsOptions:
    """Options of `glyphs`; several values are joined by `+`."""

    split: str = "train"
    design: str = "+".join(design for design in DESIGNS if design != HELD_OUT)
    names: str = ""


class Glyphs:
    """One sample per drawing, sorted by concept, then design.

    >>> source = Glyphs(splits=("test",), designs=("noto",))
    >>> len(source), source[0].key, source[0].captions()
    (192, '1f604/noto', ['grinning face with smiling eyes'])
    """

    name = "glyphs"

    def __init__(
        self, *, splits: Sequence[str], designs: Sequence[str], languages: Sequence[str] = ()
    ):
        self.splits = tuple(splits)
        self.languages = tuple(languages)
        self.designs = tuple(designs)
        drawn = [
            (concept["index"], DESIGNS.index(design))
            for concept in concepts()
            if concept["split"] in splits
            for design in designs
            if design in concept["designs"]
        ]
        self._rows = np.array(drawn, np.int32).reshape(-1, 2)  # (N, 2): concept, design

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        concept = concepts()[self._rows[index, 0]]
        design = DESIGNS[self._rows[index, 1]]
        image = GlyphImage(design, concept["index"])
        return Sample(
            key=f"{concept['hexcode']}/{design}",
            source=self.name,
            images={"main": image},
            texts=(
                Text(text=concept["name"]),
                *(Text(text=tag, role="tags") for tag in concept["tags"]),
                *(
                    Text(text=names()[concept["index"]][language], role=language)
                    for language in self.languages
                ),
            ),
            labels={
                name: int(self.labels(name, index))
                for name in ("concept", "group", "subgroup", "design")
            },
            masks={"main": GlyphMask(image)},
        )

    def keys(self) -> list[str]:
        """`hexcode/design` of each sample."""
        return [
            f"{concepts()[concept]['hexcode']}/{DESIGNS[design]}" for concept, design in self._rows
        ]

    def labels(self, name: str, index: int | slice = slice(None)) -> np.ndarray:
        """The label `name` of all samples, or of those at `index`, without decoding: (N,) int64."""
        concept, design = self._rows[index].T
        if name == "concept":
            return concept.astype(np.int64)
        if name == "design":
            return design.astype(np.int64)
        if name not in ("group", "subgroup"):
            raise unknown("label of glyphs", name, ("concept", "group", "subgroup", "design"))
        return _label_of_concepts(name)[concept]

    def schema(self) -> Schema:
        """Image, names, tags, four labels with their class names, and the mask."""
        return {
            "images.main": Field(kind="image"),
            "texts.caption": Field(kind="text"),
            "texts.tags": Field(kind="text"),
            **{f"texts.{language}": Field(kind="text") for language in self.languages},
            "labels.concept": Field(
                kind="int", classes=tuple(concept["name"] for concept in concepts())
            ),
            "labels.group": Field(kind="int", classes=_values("group")),
            "labels.subgroup": Field(kind="int", classes=_values("subgroup")),
            "labels.design": Field(kind="int", classes=DESIGNS),
            "masks.main": Field(kind="mask"),
        }


@lru_cache(maxsize=2)
def _values(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(concept[name] for concept in concepts()))


@lru_cache(maxsize=2)
def _label_of_concepts(name: str) -> np.ndarray:
    number = {value: at for at, value in enumerate(_values(name))}
    return np.array([number[concept[name]] for concept in concepts()], np.int64)
