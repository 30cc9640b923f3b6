"""Words of a page as Amazon Textract gives them.

    {"PAGE": […], "LINE": [BLOCK, …], "WORD": [BLOCK, …]}      as InfographicVQA groups them
    {"DocumentMetadata": {…}, "Blocks": [BLOCK, …]}            the answer of the service

    BLOCK  {"BlockType", "Id", "Text", "Page", "Geometry": {"BoundingBox": {"Left", "Top", "Width", "Height"}}, …}

Boxes are shares of the page, from 0 to 1.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diptych.data.images import FileImage, size_of
from diptych.data.sample import BadSample, Box
from diptych.data.sources.records import json_of

_SIDES = ("Left", "Top", "Width", "Height")
_SLACK = 0.05
"""How far a box may reach beyond its page; turned words do so by a little, pixels by far."""
_MOST = 1 << 26  # bytes of a file


def read_words(path: Path, image: FileImage) -> tuple[list[Box], str]:
    """Return the words of the first page in a file, as boxes in pixels of its image, and its lines as one
    text; without lines its words in order.

    Raises BadSample: ocr (it cannot be read, or its boxes are no shares of the page).
    """
    try:
        if path.stat().st_size > _MOST:
            raise ValueError(f"it has more than {_MOST >> 20} MB")
        found = json_of(path)
        words = [block for block in _blocks(found, "WORD") if block["Text"].strip()]
        lines = [block["Text"].strip() for block in _blocks(found, "LINE")]
        size = size_of(image)
        boxes = [Box(xyxy=_box(block, size), text=block["Text"].strip()) for block in words]
    except (ArithmeticError, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise BadSample("ocr", f"{path} is no answer of Textract ({error})") from error
    text = "\n".join(filter(None, lines)) or " ".join(box.text for box in boxes)
    return boxes, text


def _blocks(found: Any, kind: str) -> Iterable[Mapping[str, Any]]:
    """The blocks of a kind on the first page. Raises ValueError for a file of another form."""
    if "Blocks" in found:
        blocks = [block for block in found["Blocks"] if block["BlockType"] == kind]
    elif "WORD" in found:
        blocks = found.get(kind, [])
    else:
        raise ValueError("it has neither Blocks nor WORD")
    return [block for block in blocks if block.get("Page", 1) == 1]


def _box(block: Mapping[str, Any], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The sides of a block in pixels, cut at the page's."""
    sides = block["Geometry"]["BoundingBox"]
    left, top, width, height = (float(sides[side]) for side in _SIDES)
    right = left + width
    bottom = top + height
    ends = (left, top, right, bottom)
    if not all(-_SLACK <= end <= 1 + _SLACK for end in ends) or min(width, height) < 0:
        raise ValueError(f"the box {sides} is no share of the page, from 0 to 1")
    x0, y0, x1, y1 = (min(max(end, 0.0), 1.0) for end in ends)
    return x0 * size[0], y0 * size[1], x1 * size[0], y1 * size[1]
