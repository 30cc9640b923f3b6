"""A folder of images or volumes: `class/image.jpg` gives labels, `image.jpg` with `image.txt` or
`.json` gives texts.

If every image is in a subfolder, the first subfolder is its class (label `class`). An empty
subfolder is a class too, so that tasks that need images of every class can report it. Each line of
a .txt is one caption; a .json is read as in tar shards. Images without texts are allowed.

A folder of videos is one of clips. With `:frames=N`, GIF and WebP files and folders of frames are
clips too: a folder that holds JPEG, PNG or other images is one clip, of its images in the order of
the numbers in their names.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from diptych.data.clips import FRAMES, FrameStack, check_frames, images_of, images_of_file
from diptych.data.compact import Strings, is_folder
from diptych.data.endings import ANIMATED, FOREIGN, IMAGES, VIDEOS, ending
from diptych.data.images import FileImage
from diptych.data.sample import BadSample, EncodedImage, Sample, Schema, path_text
from diptych.data.sources.records import Parts, labels_of, read_json, read_text, roles_of, schema_of
from diptych.data.video import require_video
from diptych.data.volume_files import VOLUMES
from diptych.errors import InputError, some
from diptych.spec import Spec, configure

FORMAT = "folder"
ANY = True
_TEXTS = (".txt", ".json")
_LEFT_OUT = (".", "__MACOSX")  # prefixes of folders to ignore
_ABOUT = (
    "readme",
    "license",
    "licence",
    "classes",
    "labels",
)  # texts about the folder, not about an image


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: any folder (write ./glyphs for a folder with the name of a
    source)."""
    return is_folder(spec)


def open(spec: Spec) -> "Folder":
    """Open a folder such as `photos/`, with subfolders; `:text=FIELD` names JSON fields as in
    `roles_of`, `:frames=N` reads clips."""
    options = configure(FolderOptions, spec.options, f"source {spec.name!r}")
    check_frames(options.frames, spec.name)
    return Folder(spec.name, roles_of(options.text), options.frames)


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """Options of a folder."""

    text: str | None = None
    frames: int | None = None


class Folder:
    """The images in a folder and its subfolders, sorted by path; the path is the key.

    With `frames` the samples are clips, of that many frames. Without it videos are read where there
    are no images, and left out beside images.

    `roles` are the roles of JSON fields (see `roles_of`); if they include captions, .txt files are
    ignored. `damage` counts images of unsupported formats (unsupported), subfolders that cannot be
    read (unreadable) and, if some images have texts, texts without an image (missing). Raises
    InputError for a folder without images, and for videos without PyAV.
    """

    def __init__(
        self,
        root: str,
        roles: Mapping[str, str] = MappingProxyType({}),
        frames: int | None = None,
    ):
        self.name = root
        self.root = root
        self.roles = dict(roles)
        self.frames = frames
        images = []
        videos = []
        stacks = set()
        texts = set()
        foreign = []
        others = set()
        paths, closed = _walk(root)
        for path in paths:
            kind = ending(path)
            if frames is not None and kind in IMAGES and kind not in ANIMATED:
                stacks.add(os.path.dirname(path) or ".")  # noqa: PTH120
                continue
            if kind in IMAGES or kind in VOLUMES:
                images.append(path)
                continue
            if kind in VIDEOS:
                videos.append(path)
                continue
            others.add(path.partition(os.sep)[0])
            if f".{kind}" in _TEXTS:
                texts.add(path)
            elif kind in FOREIGN:
                foreign.append(path)
        if videos and (frames is not None or not images):
            require_video(f"reading the {len(videos)} videos of {root}")
            images += videos
        images = sorted([*images, *stacks])
        if not images:
            raise InputError(_nothing(root, len(texts), foreign))
        others |= {path.partition(os.sep)[0] for path in closed}
        self._paths = Strings(images)
        keys = [path_text(path) for path in images]  # file names need not be valid text; keys must
        self._keys = self._paths if keys == images else Strings(keys)
        self._stacked = np.array([path in stacks for path in images], bool)
        stems = [path if path in stacks else _stem(path) for path in images]
        # For each kind of text, which images have it.
        self._has = {
            kind: np.array([stem + kind in texts for stem in stems], bool) for kind in _TEXTS
        }
        lost = {path: "unsupported" for path in foreign} | {path: "unreadable" for path in closed}
        self.damage: Mapping[str, str] = {
            path_text(str(Path(root, path))): reason
            for path, reason in {
                **self._orphans(texts, set(stems).union(map(_stem, foreign))),
                **lost,
            }.items()
        }
        firsts = [path.partition(os.sep) for path in images]
        named = all(rest for _, _, rest in firsts)
        empty = set(_subfolders(root)) - others
        folders = sorted(empty.union(first for first, _, _ in firsts)) if named else []
        self._classes = tuple(map(path_text, folders))
        number = {name: at for at, name in enumerate(folders)}
        self._label = np.array([number.get(first, -1) for first, _, _ in firsts], np.int64)
        self._schema: Schema | None = None

    def _orphans(self, texts: set[str], stems: set[str]) -> Mapping[str, str]:
        if not any(has.any() for has in self._has.values()):
            return {}
        alone = (path for path in sorted(texts) if _stem(path) not in stems)
        return {path: "missing" for path in alone if Path(path).stem.lower() not in _ABOUT}

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        path = self._paths[index]
        full = os.path.join(self.root, path)  # noqa: PTH118
        stem = full if self._stacked[index] else _stem(full)
        parts = Parts()
        if self._classes:
            parts.labels["class"] = int(self._label[index])
        if self._has[".txt"][index] and "caption" not in self.roles.values():
            for line in read_text(FileImage(stem + ".txt").read()).splitlines():
                parts.add_text(line, "caption")
        if self._has[".json"][index]:
            parts.add(read_json(FileImage(stem + ".json").read()), self.roles)
        return Sample(
            key=self._keys[index],
            source=self.name,
            images=self._images(full, bool(self._stacked[index])),
            texts=parts.texts,
            labels=parts.labels,
            boxes=parts.boxes,
            arrays=parts.arrays,
            edits=parts.edited(self._keys[index], self.name),
        )

    def _images(self, path: str, stacked: bool) -> dict[str, EncodedImage]:
        if not stacked:
            return images_of_file(path, FileImage(path), self.frames)
        return images_of(
            FrameStack(frames_in(path), FRAMES if self.frames is None else self.frames)
        )

    def keys(self) -> Sequence[str]:
        """The images' paths below the folder."""
        return self._keys

    def labels(self, name: str) -> np.ndarray:
        """The label `class` of all samples (N,)."""
        if name == "class" and self._classes:
            return self._label
        return labels_of(self, name)

    def schema(self) -> Schema:
        """The fields, judged by up to 1,000 samples; classes are the subfolders."""
        if self._schema is None:
            self._schema = schema_of(self, {"class": self._classes})
        return self._schema


def frames_in(path: str) -> tuple[FileImage, ...]:
    """The images in a folder that are the frames of a film, in the order of the numbers in their names.
    Raises BadSample("missing") if it cannot be read."""
    try:
        names = [name for name in os.listdir(path) if name[0] != "."]  # noqa: PTH208
    except OSError as error:
        raise BadSample("missing", f"{path}: {error.strerror}") from error
    images = [name for name in names if (kind := ending(name)) in IMAGES and kind not in ANIMATED]
    return tuple(FileImage(os.path.join(path, name)) for name in sorted(images, key=_in_order))  # noqa: PTH118


def _in_order(name: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them: frame_9.png before frame_10.png."""
    return [
        (int(part), part) if part.isdecimal() else (0, part) for part in re.split("([0-9]+)", name)
    ]


def _stem(path: str) -> str:
    kind = ending(path)
    return path[: -len(kind) - 1] if kind else path


def _walk(root: str) -> tuple[list[str], list[str]]:
    """All files below `root`, sorted, with relative paths, and the folders that cannot be read.

    Hidden files and folders, and folders visited before (by a link), are left out. Raises
    InputError if `root` cannot be read.
    """
    met: set[tuple[int, int]] = set()
    found: list[str] = []
    errors: list[OSError] = []
    for folder, folders, names in os.walk(root, followlinks=True, onerror=errors.append):
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in met:
            folders.clear()
            continue
        met.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(_LEFT_OUT))
        prefix = os.path.relpath(folder, root)
        found += [
            name if prefix == "." else os.path.join(prefix, name)  # noqa: PTH118
            for name in names
            if name[0] != "."
        ]
    closed = sorted(os.path.relpath(error.filename, root) for error in errors)
    if "." in closed:
        raise InputError(
            f"{root}: this folder cannot be read ({errors[0].strerror}); check its permissions"
        )
    return sorted(found), closed


def _subfolders(root: str) -> list[str]:
    with os.scandir(root) as entries:
        return [
            entry.name
            for entry in entries
            if entry.is_dir() and not entry.name.startswith(_LEFT_OUT)
        ]


def _nothing(root: str, texts: int, foreign: Sequence[str]) -> str:
    if foreign:
        return (
            f"{root}: {len(foreign)} images of kinds that are not read ({some(foreign)}); "
            "convert them to JPEG or PNG"
        )
    tars = sorted(Path(root).glob("*.tar"))
    if tars:
        return f"{root}: no images, but tar shards; write {Path(root) / '*.tar'}"
    tables = sorted(
        path.name
        for path in Path(root).iterdir()
        if path.suffix in (".csv", ".tsv", ".jsonl", ".parquet")
    )
    if tables:
        return f"{root}: no images, but a table; write {Path(root) / tables[0]}"
    if texts:
        return f"{root}: {texts} texts and no image; put each image beside its text, under the same name"
    kinds = " ".join(f".{kind}" for kind in (*IMAGES, *VOLUMES, *VIDEOS))
    return f"{root}: no images in this folder; the kinds read are {kinds}"
