"""A sample as HTML: a card with its pictures, labels, boxes and texts, and a small picture that leads
to it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Protocol

from diptych.data.images import size_of
from diptych.data.sample import BadSample, Box, Sample, Schema, Text
from diptych.viewer.document import attribute, text
from diptych.viewer.pictures import Picture, pictures

CARD = 320
"""The side in pixels of the picture of a card."""

SMALL = 128
"""The side in pixels of small pictures."""

_TEXTS = 5  # texts that are open on a card
_LONG = 260  # characters of a text that are
_FACTS = 6  # labels that are open
_COLOURS = 6  # of lines


@dataclass(frozen=True, slots=True)
class Ref:
    """A sample: the number of its source among those of a page, and its number there."""

    source: int
    number: int

    @property
    def id(self) -> str:
        """What it is called in addresses within a page."""
        return f"s{self.source}-{self.number}"


class Links(Protocol):
    """How a page refers to samples, and to their pictures."""

    def sample(self, ref: Ref) -> str:
        """Return the address of a sample's card."""
        ...

    def picture(self, ref: Ref, at: int, picture: Picture, size: int) -> str:
        """Return the address of a sample's picture number `at`. Raises BadSample."""
        ...

    def of_class(self, label: str, number: int) -> str | None:
        """Return the address of the samples of a class, if there is one."""
        ...


def card(
    ref: Ref,
    sample: Sample,
    schema: Schema,
    links: Links,
    *,
    size: int = CARD,
) -> str:
    """Return the card of a sample, with pictures of at most `size` pixels."""
    shown = pictures(sample, schema)
    large = [_figure(ref, at, shown[at], schema, links, size) for at in range(len(shown[:1]))]
    small = [
        _figure(ref, at, shown[at], schema, links, SMALL if size == CARD else CARD)
        for at in range(1, len(shown))
    ]
    parts = [
        *large,
        f'<div class="more">{"".join(small)}</div>' if small else "",
        _texts(sample),
        _labels(sample, schema),
    ]
    return _frame(ref, sample.key, links, "".join(parts))


def damaged_card(ref: Ref, key: str, error: BadSample, links: Links) -> str:
    """Return the card of a sample that cannot be read."""
    return _frame(ref, key, links, _lost(error))


def mini(
    ref: Ref, key: str, sample: Sample | BadSample, schema: Schema, links: Links, note: str = ""
) -> str:
    """Return a small picture with a sample's key, which leads to its card."""
    if isinstance(sample, BadSample):
        shown = _lost(sample)
    else:
        found = pictures(sample, schema)[:1]
        shown = _image(ref, 0, found[0], links, SMALL) if found else _lost(None)
    said = f'<span class="soft">{escape(note)}</span>' if note else ""
    return f'<a class="mini" href="{attribute(links.sample(ref))}">{shown}{text(key)}{said}</a>'


def _frame(ref: Ref, key: str, links: Links, inside: str) -> str:
    return (
        f'<article class="sample" id="{ref.id}">{inside}'
        f'<h3><a href="{attribute(links.sample(ref))}">{text(key)}</a></h3></article>'
    )


def _lost(error: BadSample | None) -> str:
    said = "no image" if error is None else f"cannot be read: {error.reason}"
    return f'<div class="lost">{escape(said)}</div>'


def _figure(ref: Ref, at: int, picture: Picture, schema: Schema, links: Links, size: int) -> str:
    over = _boxes(picture, schema) if picture.boxes else ""
    shown = _image(ref, at, picture, links, size)
    return (
        f'<figure><div class="stack">{shown}{over}</div>'
        f"<figcaption>{text(picture.name)}</figcaption></figure>"
    )


def _image(ref: Ref, at: int, picture: Picture, links: Links, size: int) -> str:
    try:
        address = links.picture(ref, at, picture, size)
    except BadSample as error:
        return _lost(error)
    return f'<img src="{attribute(address)}" alt="{attribute(picture.name)}" loading="lazy">'


def _boxes(picture: Picture, schema: Schema) -> str:
    """Return the boxes of a picture as SVG over it, those of one name in one colour."""
    assert picture.image is not None
    try:
        width, height = size_of(picture.image)
    except BadSample:
        return ""
    colours = _colours(picture.boxes, schema)
    parts = []
    for box in picture.boxes:
        x0, y0, x1, y1 = box.xyxy
        name = _name(box, schema)
        parts.append(
            f'<rect x="{x0:g}" y="{y0:g}" width="{max(x1 - x0, 0):g}" height="{max(y1 - y0, 0):g}" '
            f'stroke="{colours[name]}"><title>{attribute(name)}</title></rect>'
        )
    return (
        f'<svg class="boxes" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )


def _colours(boxes: Sequence[Box], schema: Schema) -> dict[str, str]:
    names = dict.fromkeys(_name(box, schema) for box in boxes)
    return {name: f"var(--line-{number % _COLOURS})" for number, name in enumerate(names)}


def _name(box: Box, schema: Schema) -> str:
    classes = schema["boxes"].classes if "boxes" in schema else ()
    if box.text or not 0 <= box.label < len(classes):
        return box.text
    return classes[box.label]


def labels_of(sample: Sample, schema: Schema) -> dict[str, str]:
    """Return the labels that a sample has, with class names in place of numbers."""
    found = {}
    for name, value in sample.labels.items():
        field = schema.get(f"labels.{name}")
        classes = field.classes if field else ()
        if isinstance(value, float) and math.isnan(value):
            continue
        if classes:
            if 0 <= value < len(classes):
                found[name] = classes[int(value)]
        elif not (isinstance(value, int) and value == -1):
            found[name] = f"{value:g}" if isinstance(value, float) else str(value)
    return found


def _labels(sample: Sample, schema: Schema) -> str:
    """Return boxes by name, labels and arrays; the first few are open."""
    rows = [_fact("boxes", _boxed(sample.boxes, schema))] if sample.boxes else []
    rows += [_fact(name, text(value)) for name, value in labels_of(sample, schema).items()]
    rows += [
        _fact(name, f"{' × '.join(map(str, array.shape))} {array.dtype}")
        for name, array in sample.arrays.items()
    ]
    open_ = f"<dl>{''.join(rows[:_FACTS])}</dl>" if rows else ""
    return open_ + _folded(len(rows) - _FACTS, f"<dl>{''.join(rows[_FACTS:])}</dl>")


def _fact(name: str, value: str) -> str:
    return f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>"


def _boxed(boxes: Sequence[Box], schema: Schema) -> str:
    """Return the names of boxes, with their colours in the picture and their numbers."""
    counts = Counter(_name(box, schema) for box in boxes)
    colours = _colours([box for box in boxes if box.image == "main"], schema)
    parts = []
    for name, count in counts.most_common():
        swatch = f"{swatch_of(colours[name])} " if name in colours else ""
        times = f" × {count}" if count > 1 else ""
        parts.append(f'<span class="named">{swatch}{text(name or "without a name")}{times}</span>')
    return ", ".join(parts)


def swatch_of(colour: str) -> str:
    """Return a small square of a colour."""
    return (
        '<svg class="swatch" viewBox="0 0 1 1" aria-hidden="true">'
        f'<rect width="1" height="1" fill="{colour}"/></svg>'
    )


def _folded(count: int, inside: str) -> str:
    if count <= 0:
        return ""
    return f"<details><summary>{count:,} more</summary>{inside}</details>"


def _texts(sample: Sample) -> str:
    rows = [_text(each.role, each) for each in sample.texts]
    for edit in sample.edits:
        if not edit.images:
            rows += [_text(f"{edit.kind}, {each.role}", each) for each in edit.texts]
    open_ = f'<ul class="texts">{"".join(rows[:_TEXTS])}</ul>' if rows else ""
    rest = f'<ul class="texts">{"".join(rows[_TEXTS:])}</ul>'
    return open_ + _folded(len(rows) - _TEXTS, rest)


def _text(role: str, said: Text) -> str:
    notes = _attrs(said.attrs)
    after = f' <span class="soft">{text(notes)}</span>' if notes else ""
    return f"<li><b>{text(role)}</b> {_whole(said.text)}{after}</li>"


def _whole(said: str) -> str:
    if len(said) <= _LONG:
        return text(said)
    return f"<details><summary>{text(said[:_LONG])} …</summary>{text(said[_LONG:])}</details>"


def _attrs(attrs: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} {_plain(value)}" for name, value in attrs.items() if value not in ((), "")
    )


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return ", ".join(map(str, value)) if several else str(value)
