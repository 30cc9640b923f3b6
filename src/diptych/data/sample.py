"""What a source gives: `Sample`, its lazily decoded `Image`s, and the `Schema` that says which
fields to expect.

Fields are named by dotted strings everywhere: `images.main`, `texts.caption`, `labels.class`,
`boxes`, `masks.object`, `arrays.volume`, `edits`.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from diptych.errors import InputError, some

_KEYS = 65_536  # hashed at once


class BadSample(Exception):
    """A damaged sample: counted under `reason` (a short slug, e.g. "truncated", "html"), never
    fatal by itself."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self):  # crosses worker processes whole
        return type(self), (self.reason, self.detail)


def keys_digest(source: "Source") -> str:
    """SHA-256 of a source's keys in order, in one pass over them: ten million take seconds."""
    total = hashlib.sha256()
    keys = source.keys()
    for start in range(0, len(keys), _KEYS):
        text = "\n".join(keys[start : start + _KEYS])
        total.update(("\n" * bool(start) + text).encode("utf-8", "surrogatepass"))
    return total.hexdigest()


def damage_told(damaged: Mapping[str, str]) -> str:
    """Damaged samples (key -> reason) in words: how many by reason, and some of them.

    >>> damage_told({"a.png": "truncated", "b.png": "html", "c.png": "truncated"})
    '2 truncated, 1 html; such as a.png, b.png, c.png'
    """
    reasons = ", ".join(
        f"{count} {reason}" for reason, count in Counter(damaged.values()).most_common()
    )
    return f"{reasons}; such as {some(damaged)}"


def whole(text: str) -> str:
    """The text with half surrogate pairs, which no UTF-8 can hold, shown as the replacement sign.

    >>> whole("a\\ud83d")
    'a�'
    """
    return (
        text
        if text.isascii()
        else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def path_text(path: str) -> str:
    """A path as text: bytes of a file's name that are no UTF-8 are written as `\\xNN`.

    >>> path_text("caf\\udce9.png")
    'caf\\\\xe9.png'
    """
    try:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return whole(path)


class EncodedImage(Protocol):
    """An image not yet decoded."""

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The image as RGB, or RGBA where it has transparency, turned upright; raises BadSample.

        `at_least` allows a smaller image, where that is faster, whose short side keeps so many
        pixels.
        """
        ...

    def read(self) -> bytes:
        """The encoded bytes, for checksums and duplicates; raises BadSample where they cannot be
        read."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """One text of a sample. Roles: caption, web, synthetic, long, question, answer, findings, ocr,
    …"""

    text: str
    role: str = "caption"
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A rectangle in pixels of the image `image` (x0, y0, x1, y1), with what is in it."""

    xyxy: tuple[float, float, float, float]
    text: str = ""
    label: int = -1
    image: str = "main"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One example. `key` is unique in its source; missing labels are -1 (int) or NaN (float)."""

    key: str
    source: str
    images: Mapping[str, EncodedImage] = field(default_factory=dict)
    texts: Sequence[Text] = ()
    labels: Mapping[str, int | float] = field(default_factory=dict)
    boxes: Sequence[Box] = ()
    masks: Mapping[str, EncodedImage] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    edits: Sequence["Sample"] = ()
    kind: str = ""  # of an edit: what it changed ("swap", "recolour", …)

    def captions(self, role: str = "caption") -> list[str]:
        """The texts of one role, in order (`"*"`: of every role)."""
        return [text.text for text in self.texts if role in (text.role, "*")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One field of a schema: `kind` is image, text, int, float, box, mask, array or edit."""

    kind: str
    optional: bool = False
    classes: tuple[str, ...] = ()  # names of the labels 0, 1, …


Schema = Mapping[str, Field]


@runtime_checkable
class Source(Protocol):
    """Random access to samples. Pickles cheaply (a worker process gets a copy), reads nothing until
    asked."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """The sample; its images are read when decoded. Raises BadSample where even its texts
        cannot be read."""
        ...

    def keys(self) -> Sequence[str]:
        """The unique keys in order, without reading images."""
        ...

    def schema(self) -> Schema: ...


def labels_of(source: Source, label: str, rows: np.ndarray | range | None = None) -> np.ndarray:
    """One label of every sample (N,), or of those at `rows` (K,), read once, without decoding an
    image.

    Raises InputError where the source has no such label.
    """
    if f"labels.{label}" not in source.schema():
        raise InputError(
            f"{source.name} has no label {label!r}; its fields are {', '.join(source.schema())}"
        )
    given = getattr(source, "labels", None)
    if given is None:
        read = range(len(source)) if rows is None else rows
        return np.array([source[int(row)].labels.get(label, -1) for row in read])
    values = np.asarray(given(label))
    if isinstance(rows, range):  # NumPy would take it as a list, number by number
        rows = np.arange(rows.start, rows.stop, rows.step)
    return values if rows is None else values[rows]


def is_visual(sample: Sample, label: str | None = None, role: str = "main") -> bool:
    """Whether a sample's texts are visual: its label is 1, or without a label named, it has an
    image of `role`.

    Raises BadSample("no-label") where the label is neither 0 nor 1: nobody could say, so it is no
    example of either.
    """
    if label is None:
        return role in sample.images
    value = sample.labels.get(label, -1)
    if value not in (0, 1):
        raise BadSample("no-label", f"label {label!r} is {value}, not 0 or 1")
    return bool(value)
