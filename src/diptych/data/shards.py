"""Write any source as tar shards, which `diptych.data.sources.tar` reads.

    KEY.png, KEY.ROLE.png       images; an edit's under its kind, as KEY.recolour.png
    KEY.ROLE.volume.npy         volumes, an edit's likewise; .nii or .nii.gz where it is a file of these, without
                                "volume"
    KEY.frames.png              a clip as an animation; .mp4, .mkv, .avi, .gif or .webp where it is a file of these
    KEY.NAME.seg.png            masks
    KEY.NAME.npy                arrays; in KEY.ROLE_objects.npy the objects that each text describes
    KEY.json                    texts by role, labels and masks with names, boxes, edits

KEY is the key of the sample; what a member's name cannot hold there, such as dots, is replaced by _:
photo.jpg becomes photo_jpg.

Of an edit, images, texts, labels and boxes are written, not its masks and arrays. Shards are
written atomically, and an interrupted run continues with the missing ones.
"""

import io
import json
import math
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.clips import MiddleFrame, clip_ending, is_clip
from diptych.data.outlines import to_rle
from diptych.data.sample import Box, EncodedImage, Field, Sample, Schema, Source, Text
from diptych.data.sources.records import edit_names
from diptych.data.volume_files import is_volume, volume_ending
from diptych.errors import InputError
from diptych.files import write_atomic

PER_SHARD = 1000
MANIFEST = "shards.json"
_NAMES = re.compile(
    r"(?!image$|img$|mask$|.*seg$)[\w -]+"
)  # those left out are read as other parts
_NO_STEM = re.compile(r"\.|^[/\\]|(?<=^.):")  # a dot, a root, a drive
_HIDDEN = re.compile(r"(?:^|(?<=/))_(?=_[^/]*$)")  # members called __ are passed over


def write_shards(
    source: Source,
    folder: str | Path,
    *,
    per_shard: int = PER_SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write `source` to FOLDER/00000.tar, 00001.tar, … of `per_shard` samples; returns the paths.

    `progress(done, total)` counts samples. Raises InputError if the folder contains anything but
    shards of the same source, for two keys that would name the same members, and for kinds of edits
    that cannot name members.
    """
    if per_shard < 1:
        raise InputError(f"shards of {per_shard} samples cannot be written; give at least 1")
    folder = Path(folder)
    _check_keys(source)
    _claim(folder, {"source": source.name, "samples": len(source), "per_shard": per_shard})
    paths = [folder / f"{number:05d}.tar" for number in range(-(-len(source) // per_shard))]
    schema = source.schema()
    for number, path in enumerate(paths):
        start = number * per_shard
        stop = min((number + 1) * per_shard, len(source))
        if not path.exists():

            def advance(done: int, start: int = start) -> None:
                if progress:
                    progress(start + done, len(source))

            write_atomic(
                path,
                lambda at, rows=range(start, stop), advance=advance: _write(
                    at, source, schema, rows, advance
                ),
            )
        elif progress:
            progress(stop, len(source))
    return paths


def _stem(key: str) -> str:
    """The key as the reader gives it back, with nothing that a member's name cannot hold.

    >>> _stem("pets/cat.1.jpg"), _stem("../__b"), _stem("/a"), _stem("c:d")
    ('pets/cat_1_jpg', '__/-_b', '_a', 'c_d')
    """
    return _HIDDEN.sub("-", _NO_STEM.sub("_", key))


def _check_keys(source: Source) -> None:
    """Raise InputError if two keys would name the same members."""
    renamed: dict[str, str] = {}
    keys = source.keys()
    for key in keys:
        stem = _stem(key)
        if stem != key and renamed.setdefault(stem, key) != key:
            raise _clash(source, renamed[stem], key, stem)
    for key in keys if renamed else ():
        if key in renamed:
            raise _clash(source, renamed[key], key, key)


def _clash(source: Source, one: str, other: str, stem: str) -> InputError:
    return InputError(
        f"{source.name}: samples {one!r} and {other!r} would both be {stem!r} in a tar, where names hold no dots; "
        "rename one"
    )


def _claim(folder: Path, manifest: dict[str, Any]) -> None:
    """Create the folder, or check that it was created for the same shards."""
    text = json.dumps(manifest, indent=1) + "\n"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder for the shards")
    there = folder / MANIFEST
    if there.is_file():
        if there.read_text("utf-8") != text:
            raise InputError(
                f"{folder} holds other shards, as {MANIFEST} in it tells; give an empty folder"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} holds other files; give an empty folder for the shards")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(there, lambda at: at.write_text(text, "utf-8"))


def _write(
    path: Path, source: Source, schema: Schema, rows: range, advance: Callable[[int], None]
) -> None:
    with tarfile.open(path, "w") as tar:
        for done, row in enumerate(rows, 1):
            sample = source[row]
            stem = _stem(sample.key)
            for ending, data in _members(sample, schema):
                member = tarfile.TarInfo(f"{stem}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            advance(done)


def _members(sample: Sample, schema: Schema) -> Iterator[tuple[str, bytes]]:
    """The members of a sample as (extension, bytes)."""
    for role, image in sample.images.items():
        if is_clip(image):
            data = image.read()
            yield f"{role}.{clip_ending(data)}", data
        elif not isinstance(image, MiddleFrame):  # which the clip gives again
            data = image.read()
            ending = _ending(data)
            yield (ending if role == "main" else f"{role}.{ending}"), data
    for name, edit in zip(_names_of_edits(sample), sample.edits, strict=True):
        for role, image in edit.images.items():
            data = image.read()
            ending = _ending(data)
            yield (f"{name}.{ending}" if role == "main" else f"{name}.{role}.{ending}"), data
    for name, mask in sample.masks.items():
        yield f"{name}.seg.png", mask.read()
    for name, values in {**sample.arrays, **_objects(sample.texts)}.items():
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        yield f"{name}.npy", buffer.getvalue()
    record = _record(sample, schema)
    masks = {
        name: _numbers(mask, schema.get(f"masks.{name}")) for name, mask in sample.masks.items()
    }
    if named := {name: numbers for name, numbers in masks.items() if numbers}:
        record["mask_classes"] = named
    if sample.edits:
        record["edits"] = [_edit(edit, schema) for edit in sample.edits]
    yield "json", json.dumps(record, ensure_ascii=False).encode()


def _ending(data: bytes) -> str:
    """The extension of an image or a volume."""
    return volume_ending(data) if is_volume(data) else "png"


def _names_of_edits(sample: Sample) -> list[str]:
    """The names of the edits' members. Raises InputError for kinds that cannot name them."""
    names = edit_names([edit.kind for edit in sample.edits])
    taken = {role.partition(".")[0].lower() for role in sample.images}
    for edit, name in zip(sample.edits, names, strict=True):
        if not edit.kind.strip():
            raise InputError(f"{sample.key}: an edit has no kind; give it one, Sample(kind=…)")
        if not _NAMES.fullmatch(name) or name in taken:
            raise InputError(
                f"{sample.key}: the kind {edit.kind!r} of an edit cannot name a member of a tar; "
                "use letters, digits and -, and no name of an image or another edit"
            )
        taken.add(name)
        if edit.edits:
            raise InputError(
                f"{sample.key}: its edit {edit.kind!r} has edits; list them as its own"
            )
    return names


def _edit(edit: Sample, schema: Schema) -> dict[str, Any]:
    record = _record(edit, schema)
    if "kind" in record:
        raise InputError(f"{edit.key}: an edit's text or label is called kind; call it otherwise")
    return {"kind": edit.kind, **record}


def _record(sample: Sample, schema: Schema) -> dict[str, Any]:
    """Texts by role, labels with their class names, and boxes."""
    record: dict[str, Any] = _by_role(sample.texts)
    for name, value in sample.labels.items():
        if isinstance(value, float) and not math.isfinite(value):
            continue
        if isinstance(value, int) and value < 0:
            continue  # a missing label
        if name in record:
            raise InputError(
                f"{sample.key}: a label and the texts of a role are both called {name}; call one of them otherwise"
            )
        record[name] = value
        classes = schema[f"labels.{name}"].classes if f"labels.{name}" in schema else ()
        if classes and isinstance(value, int):
            record[f"{name}_name"] = classes[value]  # the reader takes class names from such pairs
    if boxes := [_box(box) for box in sample.boxes]:
        record["boxes"] = boxes
        classes = schema["boxes"].classes if "boxes" in schema else ()
        if there := sorted({box.label for box in sample.boxes if 0 <= box.label < len(classes)}):
            record["box_classes"] = {str(number): classes[number] for number in there}
    return record


def _box(box: Box) -> dict[str, Any]:
    x0, y0, x1, y1 = box.xyxy
    found: dict[str, Any] = {
        "name": box.text,
        "label": box.label,
        "box": [x0, y0, x1 - x0, y1 - y0],
    }
    if box.mask is not None:
        found["segmentation"] = to_rle(np.asarray(box.mask.decode()) > 0)
    return found if box.image == "main" else found | {"image": box.image}


def _numbers(mask: EncodedImage, field: Field | None) -> dict[str, str]:
    """The class name of each number in a mask, if it has class names."""
    if field is None or not field.classes:
        return {}
    there = np.unique(np.asarray(mask.decode())).tolist()
    return {str(number): field.classes[number] for number in there if number < len(field.classes)}


def _by_role(texts: Sequence[Text]) -> dict[str, Any]:
    """Texts by role, and the attributes that all texts of a role have: `statement_true` is a list
    of 0 and 1."""
    found: dict[str, Any] = {}
    for role in dict.fromkeys(text.role for text in texts):
        own = [text for text in texts if text.role == role]
        found[role] = [text.text for text in own]
        for name in dict.fromkeys(name for text in own for name in text.attrs):
            values = [text.attrs.get(name) for text in own]
            if all(isinstance(value, bool | int | float) for value in values):
                found[f"{role}_{name}"] = [
                    value if isinstance(value, float) else int(value)  # type: ignore[arg-type]
                    for value in values
                ]
            elif all(isinstance(value, str) for value in values):
                found[f"{role}_{name}"] = values
    return found


def _objects(texts: Sequence[Text]) -> dict[str, np.ndarray]:
    """For each role whose texts describe different objects, which ones, (texts, objects) bool."""
    found = {}
    for role in dict.fromkeys(text.role for text in texts if "objects" in text.attrs):
        reported = [
            text.attrs["objects"] for text in texts if text.role == role and "objects" in text.attrs
        ]
        if len(set(map(tuple, reported))) == 1:
            continue
        width = 1 + max((at for ids in reported for at in ids), default=-1)
        table = np.zeros((len(reported), width), bool)
        for row, ids in enumerate(reported):
            table[row, list(ids)] = True
        found[f"{role}_objects"] = table
    return found
