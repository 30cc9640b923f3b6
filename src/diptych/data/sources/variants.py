"""Drawings of a gesture, person or role in several genders and skin tones: `variants.jsonl` and an
image per design.

Each sample is a drawing (`images.main`), another one of the same action and design
(`images.reference`), and the instruction that leads from the reference to it, such as "make it a
woman with dark skin", for composed retrieval. The image files have the layout of `glyphs`.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.compact import hash64, is_folder
from diptych.data.drawings import COLUMNS, TILE
from diptych.data.sample import Field, Sample, Schema, Text
from diptych.data.tiles import TileImage
from diptych.errors import InputError
from diptych.rng import generator
from diptych.spec import Spec, configure, several

FORMAT = "variants"
DESIGNS = ("noto", "fluent-flat", "twemoji")
GENDERS = ("person", "man", "woman")
TONES = ("none", "light", "medium-light", "medium", "medium-dark", "dark")
EDITS = ("tone", "gender", "both")
SPLITS = ("train", "val", "test")  # of actions, by a hash of the name: 7, 1 and 2 of 10


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its name and an image file of a design next to it."""
    folder, name = os.path.split(spec.name)  # (Path may raise for long texts)
    if name != "variants.jsonl" or is_folder(spec):
        return False
    return any(os.path.isfile(os.path.join(folder, f"{design}.webp")) for design in DESIGNS)  # noqa: PTH113, PTH118


@dataclass(frozen=True, kw_only=True)
class VariantsOptions:
    """Options of `variants.jsonl`; several values are joined by `+`."""

    split: str = "train"
    design: str = "all"


def open(spec: Spec) -> "Variants":
    """Open
    `variants.jsonl[:split=train|val|test|train+val|all][:design=noto+fluent-flat+twemoji|all]`.

    The default split is train. Raises InputError for a file of another form, and if an image file
    of a design is missing.
    """
    options = configure(VariantsOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    splits = several(f"split of {path}", options.split, SPLITS)
    designs = several(f"design of {path}", options.design, DESIGNS)
    for design in designs:
        if not path.with_name(f"{design}.webp").is_file():
            raise InputError(
                f"{path}: the sheet {design}.webp is not beside it; name others with :design="
            )
    return Variants(path, _read(path), splits=splits, designs=designs)


def _read(path: Path) -> list[dict[str, Any]]:
    """The rows of the file, each checked."""
    rows = []
    for at, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
            row = row | {"tone": row["tone"] or "none", "split": split_of(row["action"])}
            fits = (
                row["gender"] in GENDERS and row["tone"] in TONES and isinstance(row["index"], int)
            )
            if not (fits and isinstance(row["designs"], list) and isinstance(row["name"], str)):
                raise ValueError("a gender, tone, index, name or designs of no such kind")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: line {at} is no variant ({error}); copy the file again"
            ) from None
        rows.append(row)
    return rows


def split_of(action: str) -> str:
    """The split of an action.

    >>> split_of("waving hand")
    'train'
    """
    at = hash64(action.encode()) % 10
    return "train" if at < 7 else "val" if at < 8 else "test"


class Variants:
    """One sample per drawing with another one of its action and design, which is chosen at random
    but fixed.

    The labels gender, tone, action, design and edit (what differs) have class names; `group`
    numbers the pairs of action and design.
    """

    def __init__(
        self,
        path: Path,
        rows: Sequence[dict[str, Any]],
        *,
        splits: Sequence[str],
        designs: Sequence[str],
    ):
        self.name = str(path)
        self.path = path
        self._actions = tuple(dict.fromkeys(row["action"] for row in rows))
        number = {action: at for at, action in enumerate(self._actions)}
        groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
        for row in rows:
            for design in designs:
                if row["split"] in splits and design in row["designs"]:
                    groups.setdefault((number[row["action"]], design), []).append(row)
        self._pairs = [
            (key, row, *_reference(row, members, key[1]))
            for key, members in groups.items()
            if len(members) > 1
            for row in members
        ]
        if not self._pairs:
            raise InputError(
                f"{path}: no action of split {'+'.join(splits)} has two drawings of one design"
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        (action, design), row, other, kind, form = self._pairs[index]
        path = str(self.path.with_name(f"{design}.webp"))
        tone = "" if row["tone"] == "none" else f" with {row['tone']} skin tone"
        return Sample(
            key=f"{row['hexcode']}/{design}",
            source=self.name,
            images={
                "main": TileImage(path, row["index"], TILE, COLUMNS),
                "reference": TileImage(path, other["index"], TILE, COLUMNS),
            },
            texts=(
                Text(text=row["name"] + tone),
                Text(text=instruction(row, kind, form), role="instruction"),
            ),
            labels={
                "group": len(DESIGNS) * action + DESIGNS.index(design),
                "edit": EDITS.index(kind),
                "gender": GENDERS.index(row["gender"]),
                "tone": TONES.index(row["tone"]),
                "action": action,
                "design": DESIGNS.index(design),
            },
            kind=kind,
        )

    def keys(self) -> list[str]:
        """`hexcode/design` of each sample."""
        return [f"{row['hexcode']}/{design}" for (_, design), row, *_ in self._pairs]

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,), without decoding."""
        return np.array([self[at].labels[name] for at in range(len(self))])

    def schema(self) -> Schema:
        """Two images, a caption, the instruction, and six labels."""
        names = {
            "group": (),
            "edit": EDITS,
            "gender": GENDERS,
            "tone": TONES,
            "action": self._actions,
            "design": DESIGNS,
        }
        return {
            "images.main": Field(kind="image"),
            "images.reference": Field(kind="image"),
            "texts.caption": Field(kind="text"),
            "texts.instruction": Field(kind="text"),
        } | {f"labels.{name}": Field(kind="int", classes=values) for name, values in names.items()}


def _reference(
    row: dict[str, Any], members: Sequence[dict[str, Any]], design: str
) -> tuple[dict[str, Any], str, int]:
    """Another drawing, what differs, and the form of the instruction.

    First the difference is drawn, then the drawing, from the drawing's own random generator.
    """
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for other in members:
        tone = other["tone"] != row["tone"]
        gender = other["gender"] != row["gender"]
        if other is not row:
            by_kind.setdefault(
                "both" if tone and gender else "tone" if tone else "gender", []
            ).append(other)
    rng = generator(0, "variants", row["hexcode"], design)
    kind = sorted(by_kind)[int(rng.integers(len(by_kind)))]
    return by_kind[kind][int(rng.integers(len(by_kind[kind])))], kind, int(rng.integers(2))


def instruction(row: dict[str, Any], kind: str, form: int) -> str:
    """The instruction that leads to a drawing, in one of two forms.

    >>> instruction({"gender": "woman", "tone": "dark"}, "both", 0)
    'make it a woman with dark skin'
    """
    plain = row["tone"] == "none"
    if kind == "tone":
        return (
            ("make it plain yellow", "without a skin tone")
            if plain
            else (f"give it {row['tone']} skin", f"with {row['tone']} skin tone")
        )[form]
    start = (f"make it a {row['gender']}", f"the same as a {row['gender']}")[form]
    if kind == "gender":
        return start
    return start + (" in plain yellow" if plain else f" with {row['tone']} skin")
