"""The base of sources for composed retrieval: (reference, instruction, target) triples over a list
of images."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.images import FileImage
from diptych.data.sample import Field, Sample, Schema, Text
from diptych.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Triple:
    """One query, by the names of its images; `group` is the number of their set of near-duplicates,
    -1 for none."""

    key: str
    reference: str
    target: str
    texts: tuple[str, ...]
    group: int = -1


@dataclass(frozen=True, kw_only=True)
class TripleOptions:
    """Options: the folder to which images' paths are relative, and the list of images."""

    images: str | None = None
    image_list: str | None = None


class Triples:
    """One sample per triple, then one per image that is in no triple.

    The image of a triple's sample is the target; it also has `images.reference` and texts of role
    instruction. The images of all samples are the gallery.

    `images` are the paths below `root` by name, `members` the images of each group; every pair of a
    group and one of its images occurs in some sample, with the label `group`. A triple with an
    unlisted image is left out and counted in `damage` as missing. Raises InputError if no triple is
    left.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        images: Mapping[str, str],
        triples: Sequence[Triple],
        members: Mapping[int, Sequence[str]] | None = None,
    ):
        self.name = name
        self.root = root
        self._images = dict(images)
        members = members or {}
        listed = [each for each in triples if self._lists(each)]
        self.damage = {each.key: "missing" for each in triples if not self._lists(each)}
        if not listed:
            raise InputError(
                f"{name}: none of its {len(triples)} triples is of listed images; give the list of the "
                "same split with :image_list=FILE"
            )
        self._triples = listed
        self._grouped = bool(members)
        seen = {(each.group, shown) for each in listed for shown in (each.reference, each.target)}
        alone = [
            (group, shown)
            for group, names in members.items()
            for shown in names
            if (group, shown) not in seen and shown in self._images
        ]
        shown = {name for _, name in seen} | {name for _, name in alone}
        self._alone = [
            *dict.fromkeys(alone),
            *((-1, name) for name in self._images if name not in shown),
        ]
        self._keys = [each.key for each in listed]
        self._keys += [name if group < 0 else f"{group}/{name}" for group, name in self._alone]

    def _lists(self, triple: Triple) -> bool:
        return triple.reference in self._images and triple.target in self._images

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        if index >= len(self._triples):
            group, name = self._alone[index - len(self._triples)]
            shown = {"main": name}
            texts = ()
        else:
            triple = self._triples[index]
            group = triple.group
            texts = triple.texts
            shown = {"main": triple.target, "reference": triple.reference}
        return Sample(
            key=self._keys[index],
            source=self.name,
            images={
                role: FileImage(str(self.root / self._images[name])) for role, name in shown.items()
            },
            texts=tuple(Text(text=text, role="instruction") for text in texts),
            labels={"group": group} if self._grouped else {},
        )

    def keys(self) -> Sequence[str]:
        """The keys of the triples, then the names of the other images, prefixed with their group if
        they have one."""
        return self._keys

    def labels(self, name: str) -> np.ndarray:
        """The label `group` of all samples (N,), -1 for none."""
        assert name == "group"
        return np.array(
            [each.group for each in self._triples] + [group for group, _ in self._alone]
        )

    def schema(self) -> Schema:
        """Images, references and instructions, and the group if there are groups."""
        optional = bool(self._alone)
        found = {
            "images.main": Field(kind="image"),
            "images.reference": Field(kind="image", optional=optional),
            "texts.instruction": Field(kind="text", optional=optional),
        }
        return found | ({"labels.group": Field(kind="int")} if self._grouped else {})


def beside(path: Path, name: str, given: str | None, folders: Sequence[str]) -> Path:
    """The file `given`, or else the file `name` in the folder of `path` or in a sibling folder of
    `folders`."""
    places = [path.parent, *(path.absolute().parents[1] / folder for folder in folders)]
    tried = [Path(given)] if given is not None else [place / name for place in places]
    found = next((place for place in tried if place.is_file()), None)
    if found is None:
        raise InputError(
            f"{path}: its list of images, {tried[0] if given else name}, is not there; name it with :image_list=FILE"
        )
    return found


def below(path: Path, name: str) -> str:
    """Check that an image's relative path does not leave its folder; returns it."""
    if os.path.isabs(name) or Path(os.path.normpath(name)).parts[:1] == ("..",):  # noqa: PTH117
        raise InputError(
            f"{path}: the image {name} leaves the folder of images; write paths below it"
        )
    return name


def entries(path: Path, data: Any, needs: Mapping[str, type]) -> list[dict[str, Any]]:
    """Check that the file is a list of objects with the fields `needs`, else raise InputError for
    the first without."""
    if not isinstance(data, list) or not data:
        raise InputError(f"{path}: no list of triples; compare it with the published file")
    for at, entry in enumerate(data, 1):
        given = entry if isinstance(entry, dict) else {}
        if lacking := [name for name, kind in needs.items() if type(given.get(name)) is not kind]:
            raise InputError(
                f"{path}: triple {at} has no {' and no '.join(lacking)} of the right kind; compare it "
                "with the published file"
            )
    return data
