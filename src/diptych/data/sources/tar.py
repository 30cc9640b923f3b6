"""Tar shards in WebDataset layout: `key.jpg` with `key.json`, `.txt`, `.cls`, `.npy`, `.seg.png`, …
inside plain tars, in files or behind URLs (`diptych.data.remote`).

Each shard's headers are read once to index the offset and size of every member, so that any process
can read any sample with one or two reads. Nothing is extracted or unpickled.
"""

import glob
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from diptych.data import remote
from diptych.data.clips import FRAMES, Clip, check_frames, images_of
from diptych.data.compact import is_folder
from diptych.data.endings import IMAGES, VIDEOS
from diptych.data.images import MemberImage
from diptych.data.masks import VOID, ClassMask, Mask
from diptych.data.npy_files import read_npy
from diptych.data.sample import BadSample, EncodedImage, Sample, Schema
from diptych.data.sources import cache
from diptych.data.sources.records import (
    MOST_CLASSES,
    Parts,
    class_names,
    labels_of,
    read_json,
    read_text,
    roles_of,
    schema_of,
    whole_number,
)
from diptych.data.sources.tarindex import load_index
from diptych.data.wrap import Wrapped
from diptych.errors import InputError, unknown
from diptych.spec import Spec, configure

Names = Mapping[str, Sequence[str]]
"""Class names by label or mask."""

FORMAT = "tar"
_MAIN = "main"
_MOST_FILES = 1_000_000  # in the expansion of braces
_VOLUMES = ("volume.npy", "nii", "nii.gz")
_FIRST = 100  # samples by which to judge whether masks have class names
_CACHED_FROM = 10_000  # samples; the names of fewer are read in a second
_BRACE = re.compile(r"\{([^{}]*)\}")


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`."""
    return spec.name.endswith((".tar", ".tar.gz", ".tgz")) and not is_folder(spec)


def open(spec: Spec) -> "Tar":
    """Open `shards/{0000..0099}.tar` or `shards/*.tar`; `:text=FIELD` names JSON fields as in
    `roles_of`, `:frames=N` says how many frames of a clip are read, `:image=ROLE` makes
    `KEY.ROLE.jpg` the image of a sample."""
    options = configure(TarOptions, spec.options, f"source {spec.name!r}")
    check_frames(options.frames, spec.name)
    paths = expand(spec.name)
    return Tar(spec.name, paths, roles_of(options.text), options.frames, options.image)


@dataclass(frozen=True, kw_only=True)
class TarOptions:
    """Options of tar shards."""

    text: str | None = None
    frames: int | None = None
    image: str = _MAIN


def expand(pattern: str) -> list[str]:
    """The files of a pattern, or their URLs: braces `{0000..0099}` and `{a,b}` are expanded in
    order, globs sorted.

    Raises InputError if a file is missing or a glob matches none.
    """
    if Path(pattern).is_file():
        return [pattern]
    parts = _BRACE.split(pattern)
    choices = [_alternatives(part) if at % 2 else [part] for at, part in enumerate(parts)]
    if (count := math.prod(map(len, choices))) > _MOST_FILES:
        raise InputError(
            f"{pattern}: the braces stand for {count:,} files, at most {_MOST_FILES:,} are read; give a smaller range"
        )
    paths: list[str] = []
    for path in map("".join, product(*choices)):
        if remote.is_url(path):
            paths += remote.expand(path)
            continue
        # Path.glob does not accept absolute patterns.
        found = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else [path]  # noqa: PTH207
        if not found:
            raise InputError(f"{path}: the pattern matches no file; check the path")
        paths += found
    missing = [path for path in paths if not remote.is_url(path) and not Path(path).is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"{missing[0]}: no such file{more}; check the path or the range in braces")
    return paths


def _alternatives(text: str) -> "list[str] | _Range":
    if (bounds := re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})", text)) is None:
        return text.split(",")
    return _Range(*bounds.groups())


class _Range:
    """The numbers `first` to `last`, padded to the width of `first`, generated lazily."""

    def __init__(self, first: str, last: str):
        self._numbers = range(int(first), int(last) + 1)
        self._width = len(first)

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[str]:
        return (f"{number:0{self._width}d}" for number in self._numbers)


class Tar:
    """The samples of tar shards, in file order. If two shards share a key, keys are prefixed with
    their shard's name.

    `roles` are the roles of JSON fields (see `roles_of`); if they include captions, .txt members
    are ignored. With `image` the image of that role is the main one, and `KEY.jpg` with its boxes
    and masks is left out. `damage` holds the lost samples (place -> checksum, truncated,
    duplicate-key).
    Raises InputError for a file that is not a tar, for unsafe members (see `tarindex`), if no
    sample is left, and if no member has the role of `image`.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[str],
        roles: Mapping[str, str] = MappingProxyType({}),
        frames: int | None = None,
        image: str = _MAIN,
    ):
        self.name = name
        self.paths = list(paths)
        self.roles = dict(roles)
        self.frames = frames
        self.image = image
        self._stored = cache.place("tar", self.paths, ".npz")  # another one if a shard changes
        self._index = load_index(self.paths, self._stored)
        self.damage: Mapping[str, str] = self._index.damage
        if not len(self):
            lost = f" ({len(self.damage)} are damaged)" if self.damage else ""
            raise InputError(
                f"{name}: no samples in {len(self.paths)} shard(s){lost}; give shards with images"
            )
        if image != _MAIN:
            members = map(_parted, self._index.extensions)
            known = {role for member in members if (role := _role_of_image(*member)) is not None}
            if image not in known:
                raise unknown(f"image of {name}", image, sorted(known))
        self._schema: Schema | None = None
        self._named: Names | None = None  # class names of masks and boxes, by field

    def __len__(self) -> int:
        return len(self._index.ends)

    def keys(self) -> Sequence[str]:
        """The unique keys in order."""
        return self._index.keys

    def _members(self, number: int) -> Iterator[tuple[str, MemberImage]]:
        index = self._index
        path = self.paths[index.shard[number]]
        for at in range(int(index.ends[number - 1]) if number else 0, int(index.ends[number])):
            yield (
                index.extensions[index.extension[at]],
                MemberImage(path, int(index.offset[at]), int(index.size[at])),
            )

    def __getitem__(self, index: int) -> Sample:
        return self._sample(range(len(self))[index])

    def _sample(self, index: int, arrays: bool = True) -> Sample:
        """A sample, or what can be had of it without reading its array files."""
        parts, images, masks = self._read(index, arrays)
        if parts.segments and "seg" in masks and "class" not in masks:
            number = {name: at for at, name in enumerate(self._classes().get("masks.class", ()))}
            if number:
                numbers = {segment: number[name] for segment, name in parts.segments.items()}
                masks["class"] = ClassMask(masks["seg"], numbers)
        key = self._index.keys[index]
        edits = parts.edited(key, self.name, images)  # takes theirs out of images
        return Sample(
            key=key,
            source=self.name,
            images=images,
            texts=parts.texts,
            labels=parts.labels,
            boxes=parts.boxes,
            masks=masks,
            arrays=parts.arrays,
            edits=edits,
        )

    def _read(
        self, index: int, arrays: bool = True
    ) -> tuple[Parts, dict[str, EncodedImage], dict[str, Any]]:
        """The fields, images and masks of a sample's members, with or without its array files."""
        parts = Parts()
        images: dict[str, EncodedImage] = {}
        clips = []
        masks: dict[str, Any] = {}
        for extension, member in self._members(index):
            role, kind = _parted(extension)
            if kind in VIDEOS or (role == "frames" and kind in IMAGES):
                clips.append(Clip(member, FRAMES if self.frames is None else self.frames))
            elif _is_mask(role, kind):
                masks[role.removesuffix(".seg")] = Mask(
                    member
                )  # NAME.seg.png is the mask NAME, seg.png is called seg
            elif (name := _role_of_image(role, kind)) is not None:
                images.setdefault(name, member)
            elif arrays or kind != "npy":
                self._read_fields(parts, role, kind, member)
        if clips:
            images = {**images_of(clips[0]), **images}
        if self.image != _MAIN:
            images.pop(_MAIN, None)
            images = {_MAIN if role == self.image else role: each for role, each in images.items()}
            own = (box for box in parts.boxes if box.image == self.image)
            parts.boxes = [replace(box, image=_MAIN) for box in own]
            masks = {}
        return parts, images, masks

    def _classes(self) -> Names:
        """The class names of masks and boxes, by field.

        They are given by `mask_classes` and `box_classes`; those of the mask `class`, which is made
        from `seg`, are the names of all segments in alphabetical order. All samples' fields are read
        once, but only if the first ones have some.
        """
        if self._named is None:
            first = range(min(len(self), _FIRST))
            found = self._classes_in(first)
            self._named = (
                self._kept("classes", lambda: self._classes_in(range(len(self))))
                if found and len(self) > _FIRST
                else found
            )
        return self._named

    def _kept(self, what: str, read: Callable[[], Names]) -> Names:
        """What `read` finds in all samples; of many it is cached until a shard changes."""
        if len(self) < _CACHED_FROM:
            return read()
        stored = self._stored.with_name(f"{self._stored.stem}-{what}.json")
        kept = cache.read(stored, lambda path: json.loads(path.read_bytes()))
        if kept is None or kept["roles"] != self.roles:
            kept = {"roles": self.roles, "names": read()}
            cache.write(stored, lambda file: file.write(json.dumps(kept).encode()))
        return {name: tuple(names) for name, names in kept["names"].items()}

    def _classes_in(self, indices: Iterable[int]) -> Names:
        reported: dict[str, dict[int, str]] = {}
        segments: set[str] = set()
        refused: set[str] = set()
        for index in indices:
            try:
                parts, _, _ = self._read(index, arrays=False)
            except BadSample:
                continue
            segments |= set(parts.segments.values())
            of_field = {f"masks.{mask}": names for mask, names in parts.mask_classes.items()}
            for field, names in {**of_field, "boxes": parts.box_classes}.items():
                known = reported.setdefault(field, {})
                if any(known.setdefault(number, name) != name for number, name in names.items()):
                    refused.add(field)  # one number, two names
        found = {
            field: tuple(names.get(number, str(number)) for number in range(max(names) + 1))
            for field, names in reported.items()
            if field not in refused
            and names
            and min(names) >= 0
            and max(names) < (MOST_CLASSES if field == "boxes" else VOID)
        }
        if segments and "masks.class" not in reported and len(segments) <= VOID:
            found["masks.class"] = tuple(sorted(segments))
        return found

    def _read_fields(self, parts: Parts, role: str, kind: str, member: MemberImage) -> None:
        """Read one member that is no image; unsupported kinds (audio, video, …) are ignored."""
        if kind == "json":
            parts.add(read_json(member.read()), self.roles)
        elif kind in ("txt", "text", "caption"):
            if role or "caption" not in self.roles.values():
                parts.add_text(read_text(member.read()), role or "caption")
        elif kind == "cls":
            parts.labels[role or "class"] = whole_number(read_text(member.read()).strip(), ".cls")
        elif kind == "npy":
            parts.arrays[role or "npy"] = read_npy(member.read())

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,), -1 (NaN of floats) if missing; reads every sample's JSON, no
        images or array files."""
        return labels_of(_WithoutArrays(self), name)

    def schema(self) -> Schema:
        """The fields, inferred from up to 1,000 samples; class names come from paired text
        fields."""
        if self._schema is None:
            labels = self._kept("labels", lambda: class_names(_WithoutArrays(self), self.roles))
            schema = schema_of(self, labels)
            named = self._classes()
            self._schema = {
                name: replace(field, classes=named.get(name, field.classes))
                for name, field in schema.items()
            }
        return self._schema


def _parted(extension: str) -> tuple[str, str]:
    """The role and the kind of a member.

    >>> _parted("left.seg.png"), _parted("venous.nii.gz"), _parted("volume.npy")
    (('left.seg', 'png'), ('venous', 'nii.gz'), ('', 'volume.npy'))
    """
    for kind in _VOLUMES:
        if extension == kind or extension.endswith(f".{kind}"):
            return extension[: -len(kind)].removesuffix("."), kind
    role, _, kind = extension.rpartition(".")
    return role, kind


def _is_mask(role: str, kind: str) -> bool:
    return kind in IMAGES and (role == "mask" or role.endswith("seg"))


def _role_of_image(role: str, kind: str) -> str | None:
    """The role of an image or a volume; None of a mask, of a frame and of what is no image.

    >>> _role_of_image("", "jpg"), _role_of_image("venous", "nii.gz"), _role_of_image("seg", "png")
    ('main', 'venous', None)
    """
    drawn = kind in IMAGES and role != "frames" and not _is_mask(role, kind)
    if not drawn and kind not in _VOLUMES:
        return None
    return _MAIN if role in ("", "image", "img") else role


class _WithoutArrays(Wrapped):
    """The samples of shards, without reading their array files."""

    def __getitem__(self, index: int) -> Sample:
        return self.source._sample(index, arrays=False)  # type: ignore[attr-defined]
