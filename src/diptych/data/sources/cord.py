"""CORD (Park et al., 2019): photographs of receipts, with the box and the category of each word.

    train/json/receipt_00000.json    {"valid_line": [{"category", "group_id", "words": [{"text", "quad"}, …]}, …]}
    train/image/receipt_00000.png

A box is the least one that holds the four corners of a quad.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from diptych.data.sources._pages import Page, Pages, Piece, holds, open_pages
from diptych.spec import Spec, configure

FORMAT = "cord"


@dataclass(frozen=True, kw_only=True)
class CordOptions:
    """Option of the folder: whether `boxes` are those of words or of the lines of a category."""

    boxes: Literal["words", "lines"] = "words"


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a folder with `json` of lines."""
    return holds(spec, "json", b'"valid_line"')


def open(spec: Spec) -> Pages:
    """Open `CORD/train/[:boxes=lines]`. Raises InputError if no receipt in it can be read."""
    options = configure(CordOptions, spec.options, f"source {spec.name!r}")

    def read(data: Any) -> Page:
        return _page(data["valid_line"], options.boxes)

    return open_pages(spec.name, "json", "image", read)


def _page(lines: Sequence[Mapping[str, Any]], boxes: str) -> Page:
    pieces = []
    texts = []
    for line in lines:
        own = [
            Piece(text=text, box=_box(word["quad"]), kind=str(line["category"]))
            for word in line["words"]
            if (text := word["text"].strip())
        ]
        if own:
            texts.append(" ".join(piece.text for piece in own))
            pieces += own if boxes == "words" else [_joined(own, texts[-1])]
    return Page(pieces=pieces, text="\n".join(texts))


def _box(quad: Mapping[str, float]) -> tuple[float, float, float, float]:
    x = [float(quad[f"x{corner}"]) for corner in range(1, 5)]
    y = [float(quad[f"y{corner}"]) for corner in range(1, 5)]
    return min(x), min(y), max(x), max(y)


def _joined(pieces: Sequence[Piece], text: str) -> Piece:
    x0, y0, x1, y1 = zip(*(piece.box for piece in pieces), strict=True)
    return Piece(text=text, box=(min(x0), min(y0), max(x1), max(y1)), kind=pieces[0].kind)
