"""What readers of composed retrieval share: (reference, instruction, target) triples over a list of
images."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.images import FileImage
from diptych.data.sample import Field, Sample, Schema, Text
from diptych.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Triple:
    """One query by the names of its images; `group` numbers the set of near-duplicates that both
    lie in, -1: none."""

    key: str
    reference: str
    target: str
    texts: tuple[str, ...]
    group: int = -1


@dataclass(frozen=True, kw_only=True)
class TripleOptions:
    """What may follow the file's path: the folder that images' paths start from, and the list of
    images."""

    images: str | None = None
    image_list: str | None = None


class Triples:
    """A sample for each triple: the target is its image, with `images.reference` and texts of role
    instruction. Then one for each image that no triple shows, so that the images of all samples are
    the gallery.

    `images` are the paths below `root` by name, `members` the images of each group: every pair of a
    group and an image of it occurs in some sample, as label `group`. A triple that names an image
    which is not listed is left out and counted in `damage` as missing. Raises InputError where no
    triple is left.
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
        """Those of the triples; then the images' names, behind their group where they stand for
        one."""
        return self._keys

    def labels(self, name: str) -> np.ndarray:
        """The label `group` of every sample (N,), -1 for none."""
        assert name == "group"
        return np.array(
            [each.group for each in self._triples] + [group for group, _ in self._alone]
        )

    def schema(self) -> Schema:
        """Images, references and instructions, and the group where there are groups."""
        optional = bool(self._alone)
        found = {
            "images.main": Field(kind="image"),
            "images.reference": Field(kind="image", optional=optional),
            "texts.instruction": Field(kind="text", optional=optional),
        }
        return found | ({"labels.group": Field(kind="int")} if self._grouped else {})


def beside(path: Path, name: str, given: str | None, folders: Sequence[str]) -> Path:
    """The file `name` in the folder of `path`, or in one of `folders` beside that folder; or the
    one that is given."""
    places = [path.parent, *(path.absolute().parents[1] / folder for folder in folders)]
    tried = [Path(given)] if given is not None else [place / name for place in places]
    found = next((place for place in tried if place.is_file()), None)
    if found is None:
        raise InputError(
            f"{path}: its list of images, {tried[0] if given else name}, is not there; name it with :image_list=FILE"
        )
    return found


def root_of(
    path: Path, firsts: Sequence[str], given: str | None, folders: Sequence[str]
) -> tuple[Path, str]:
    """The folder from which one of `firsts` is the path of an image, and which: the folder that is
    given, or one of `folders` up to three levels above the file."""
    above = list(path.absolute().parents)[:3]
    places = (
        [Path(given)]
        if given is not None
        else [base / folder for base in above for folder in ("", *folders)]
    )
    for place, first in product(places, firsts):
        if os.path.isfile(place / first):  # noqa: PTH113  (False for any text)
            return place, first
    where = f"in {given}" if given is not None else "near it"
    raise InputError(
        f"{path}: its first image, {firsts[0]}, is not {where}; name the folder with :images=FOLDER"
    )


def below(path: Path, name: str) -> str:
    """An image's path, which must not leave the folder that it starts from."""
    if os.path.isabs(name) or Path(os.path.normpath(name)).parts[:1] == ("..",):  # noqa: PTH117
        raise InputError(
            f"{path}: the image {name} leaves the folder of images; write paths below it"
        )
    return name


def entries(path: Path, data: Any, needs: Mapping[str, type]) -> list[dict[str, Any]]:
    """The file's list of objects, each with the fields `needs` of these types; InputError naming
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
