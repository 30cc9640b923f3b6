"""The results of a search in embeddings."""

import base64
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from diptych.data.held import encoded
from diptych.data.images import on_ground
from diptych.data.sample import BadSample
from diptych.embeddings.columns import Value
from diptych.results import Markup, Tabular, html_table


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One result: `rank` from 1, `score` the cosine, `position` in the source, `image_path` "" in a
    tar, `columns` the kept columns of the source, `match` the score by which a model reranked it."""

    rank: int
    score: float
    key: str
    position: int
    image_path: str
    caption: str | None
    columns: Mapping[str, Value] = field(default_factory=dict, hash=False)
    match: float | None = None


class Hits(Tabular, list[Hit]):
    """The results of one query, best first; `rerank_seconds` is the time that reranking took."""

    rerank_seconds: float | None = None

    def records(self) -> list[dict[str, Any]]:
        """A row for each hit, the kept columns behind the others."""
        found = []
        for row in map(asdict, self):
            columns = row.pop("columns")
            if row["match"] is None:
                del row["match"]
            found.append(row | columns)
        return found

    def _repr_html_(self) -> str:
        shown = [
            {
                "#": hit.rank,
                "image": _thumbnail(hit.image_path),
                "cosine": hit.score,
                "key": hit.key,
                "caption": hit.caption,
                **hit.columns,
            }
            for hit in self
        ]
        return html_table(self.title, shown)


def _thumbnail(path: str, side: int = 128) -> Markup | None:
    """An image file as HTML, small; None if it is not, or no longer, there."""
    try:
        image = encoded(path).decode(side)
    except BadSample:
        return None
    image.thumbnail((side, side))
    data = io.BytesIO()
    on_ground(image).save(data, "JPEG")
    return Markup(
        f'<img src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'
    )
