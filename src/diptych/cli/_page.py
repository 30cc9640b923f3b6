"""The page of samples of a world: `diptych data show`."""

from collections.abc import Sequence
from typing import Any

_STYLE = (
    "<style>.row{grid-template-columns:repeat(auto-fill,136px)}figure img{width:128px;height:128px;"
    "image-rendering:pixelated}td:first-child{color:var(--soft);vertical-align:top}</style>"
)


def page(source: Any, tell: Any) -> str:
    """Return the page of samples: images, masks, depth, boxes, edits with instructions, and the
    texts of every role."""
    from diptych.lab import report

    parts = [_STYLE]
    for at in range(len(source)):
        sample = source[at]
        shown = _shown(sample, source.schema())
        pieces = [report.strip(shown)] if shown else []
        rows = [_row(text) for text in sample.texts]
        head = ("role", "text", "notes")
        columns = 3 if any(notes for *_, notes in rows) else 2
        pieces.append(report.table(head[:columns], [row[:columns] for row in rows]))
        parts.append(report.section(sample.key, _labels(sample, source.schema()), *pieces))
        tell(at + 1, len(source))
    title = source.world.name
    from diptych.data.worlds import cards

    return report.page(
        title.capitalize(),
        f"{cards()[title]['title']}. Made by {source.name}.",
        *parts,
        _fields(source),
    )


def _fields(source: Any) -> str:
    from diptych.lab import report

    rows = [
        (
            name,
            field.kind + (", not in all" if field.optional else ""),
            _cut(", ".join(field.classes), 160),
        )
        for name, field in source.schema().items()
    ]
    return report.section(
        "Fields", "What each sample holds.", report.table(("field", "kind", "classes"), rows)
    )


def _row(text: Any) -> tuple[str, str, str]:
    notes = [
        f"{name} {_plain(value)}" for name, value in text.attrs.items() if value not in ((), "")
    ]
    return text.role, text.text, "; ".join(notes)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        ", ".join(map(str, value))
        if isinstance(value, Sequence) and not isinstance(value, str)
        else str(value)
    )


def _labels(sample: Any, schema: Any) -> str:
    parts = []
    for name, value in sample.labels.items():
        field = schema.get(f"labels.{name}")
        if isinstance(value, int) and value < 0:
            continue
        named = (
            field.classes[value]
            if field and field.classes and isinstance(value, int)
            else f"{value:g}"
        )
        parts.append(f"{name}: {named}")
    return ", ".join(parts)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: text.rindex(",", 0, length)] + ", …"


def _shown(sample: Any, schema: Any) -> list[Any]:
    """Return the images, with boxes, coloured masks, depth in grey, and the edits."""
    from diptych.lab.report import Shown

    shown = [
        Shown(image=_grown(image.decode()), caption=role) for role, image in sample.images.items()
    ]
    if "main" in sample.images and sample.boxes:
        image = sample.images["main"].decode()
        names = "\n".join(dict.fromkeys(box.text for box in sample.boxes if box.image == "main"))
        shown.append(Shown(image=_boxed(image, sample.boxes), caption=f"boxes\n{names}"))
    shown += [
        Shown(image=_coloured(mask.decode()), caption=f"mask: {name}")
        for name, mask in sample.masks.items()
    ]
    if "depth" in sample.arrays:
        shown.append(Shown(image=_grey(sample.arrays["depth"]), caption="depth\nnear is light"))
    for edit in sample.edits:
        said = " ".join(edit.captions("instruction"))
        shown.append(
            Shown(
                image=_grown(edit.images["main"].decode()), caption=f"{edit.kind}: {said}", hit=True
            )
        )
    return shown


def _grown(image: Any) -> Any:
    """Double a small image in size, by nearest neighbour."""
    from PIL import Image

    return (
        image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST)
        if image.width <= 64
        else image
    )


def _boxed(image: Any, boxes: Any) -> Any:
    from PIL import ImageDraw

    scale = 2 if image.width <= 64 else 1
    image = _grown(image).convert("RGB")
    draw = ImageDraw.Draw(image)
    for box in boxes:
        if box.image == "main":
            x0, y0, x1, y1 = (scale * value for value in box.xyxy)
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline="white", width=3)
            draw.rectangle((x0 + 1, y0 + 1, x1 - 2, y1 - 2), outline="black")
    return image


def _coloured(mask: Any) -> Any:
    """Return numbers as distinct colours; 0 is dark."""
    import colorsys

    palette = [30, 32, 38]
    for number in range(1, 256):
        palette += [
            round(255 * value) for value in colorsys.hsv_to_rgb(number * 0.381966 % 1, 0.55, 0.95)
        ]
    image = mask.copy()
    image.putpalette(palette)
    return _grown(image.convert("RGB"))


def _grey(depth: Any) -> Any:
    import numpy as np
    from PIL import Image

    return _grown(Image.fromarray(np.rint(255 * (1 - depth)).astype(np.uint8)).convert("RGB"))
