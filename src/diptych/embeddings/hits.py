"""The results of a search in embeddings."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from PIL import Image, ImageDraw

from diptych.data.boxes import inside
from diptych.data.held import encoded
from diptych.data.images import on_ground, size_of
from diptych.data.sample import BadSample, EncodedImage
from diptych.embeddings.columns import ALWAYS, SIDES, Value
from diptych.results import Markup, Tabular, html_table


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One result: `rank` from 1, `score` the cosine, `position` in the source, `image_path` "" in a
    tar, `columns` the kept columns of the source, `match` the score by which a model reranked it, `box`
    the left, upper, right and lower side of a region, in pixels of its image."""

    rank: int
    score: float
    key: str
    position: int
    image_path: str
    caption: str | None
    columns: Mapping[str, Value] = field(default_factory=dict, hash=False)
    match: float | None = None
    box: tuple[float, float, float, float] | None = None

    @classmethod
    def of_row(cls, rank: int, score: float, values: Mapping[str, Any], regions: bool) -> "Hit":
        """Return the hit of a row's metadata; of one of `regions` four columns are its box."""
        columns = dict(values)
        always = {name: columns.pop(name) for name in ALWAYS}
        box = tuple(columns.pop(name) for name in SIDES) if regions else None
        return cls(rank=rank, score=score, columns=columns, box=box, **always)


class Hits(Tabular, list[Hit]):
    """The results of one query, best first; `rerank_seconds` is the time that reranking took."""

    rerank_seconds: float | None = None

    def records(self) -> list[dict[str, Any]]:
        """A row for each hit, the kept columns behind the others."""
        found = []
        for row in map(asdict, self):
            columns = row.pop("columns")
            for name in ("match", "box"):
                if row[name] is None:
                    del row[name]
            found.append(row | columns)
        return found

    def _repr_html_(self) -> str:
        shown = [
            {
                "#": hit.rank,
                "image": _thumbnail(hit.image_path, hit.box),
                "cosine": hit.score,
                "key": hit.key,
                "caption": hit.caption,
                **hit.columns,
            }
            for hit in self
        ]
        return html_table(self.title, shown)


def _thumbnail(path: str, box: Sequence[float] | None, side: int = 128) -> Markup | None:
    """An image file as HTML, small, with a box; None if it is not, or no longer, there."""
    try:
        small = fitted(encoded(path), side, box)
    except BadSample:
        return None
    data = io.BytesIO()
    small.save(data, "JPEG")
    return Markup(
        f'<img src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'
    )


def fitted(image: EncodedImage, side: int, box: Sequence[float] | None = None) -> Image.Image:
    """Return an image fitted into a square of `side` pixels, with the outline of a box around what is in
    it; the box's sides are in pixels of the whole image. Raises BadSample as `decode`."""
    small = on_ground(image.decode(side))
    small.thumbnail((side, side))
    shares = None if box is None else inside(box, size_of(image))
    if shares is None:
        return small
    width, height = small.size
    left, right = (round(share * width) for share in shares[::2])
    top, bottom = (round(share * height) for share in shares[1::2])
    line = max(1, max(small.size) // 160)
    draw = ImageDraw.Draw(small)
    for away, ink in ((3, "black"), (2, "white"), (1, "black")):  # seen on dark and on light ground
        by = away * line
        sides = (left - by, top - by, max(right - 1, left) + by, max(bottom - 1, top) + by)
        draw.rectangle(sides, outline=ink, width=line)
    return small
