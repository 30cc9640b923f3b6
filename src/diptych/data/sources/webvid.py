"""WebVid's tables: `results_2M_train.csv` with columns videoid, contentUrl, duration, page_dir, name.

A clip is PAGE_DIR/VIDEOID.mp4 of the folder `videos`, as it is downloaded, and its caption is the name.
Source: Bain et al. 2021 (Frozen in Time).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from diptych.data.sample import BadSample
from diptych.data.sources._files import beginning, inside, root_of
from diptych.data.sources.rows import Rows, open_rows
from diptych.data.sources.table import Table, TableOptions
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "webvid"
_NEEDED = ("videoid", "page_dir", "name")
_TRIED = 1000  # rows, whose videos may be missing: many are no longer on the web


@dataclass(frozen=True, kw_only=True)
class WebVidOptions:
    """Options of a table of WebVid: the folder of the videos, and how many frames of a clip are
    read."""

    images: str | None = None
    frames: int | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a CSV file with WebVid's columns."""
    head = beginning(spec, ".csv").partition(b"\n")[0].decode("utf-8", "replace").strip()
    return set(_NEEDED) <= set(head.split(","))


def open(spec: Spec) -> Table:
    """Open `results_2M_train.csv[:images=FOLDER][:frames=N]`. Raises InputError for a folder without
    one of the first videos."""
    options = configure(WebVidOptions, spec.options, f"source {spec.name!r}")
    rows = ClipRows(open_rows(spec.name))
    firsts = [row["video"] for row in islice(rows.scan(), _TRIED) if not isinstance(row, BadSample)]
    if not firsts:
        raise InputError(f"{spec.name}: no row has {', '.join(_NEEDED)}; compare it with WebVid's")
    root, _ = root_of(Path(spec.name), firsts, options.images, ("videos", "data/videos"))
    columns = TableOptions(
        image="video", text="name", key="videoid", root=str(root), frames=options.frames
    )
    return Table(spec.name, rows, columns)


class ClipRows:
    """The rows of a table of WebVid, as videoid, video (its file) and name."""

    columns: Sequence[str] = ("videoid", "video", "name")

    def __init__(self, rows: Rows):
        self.rows = rows
        self.path = rows.path

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _clip(self.rows[index])

    def scan(self) -> Iterator[dict[str, Any] | BadSample]:
        """Every row in order; one that names no video as its error."""
        for row in self.rows.scan():
            try:
                yield row if isinstance(row, BadSample) else _clip(row)
            except BadSample as error:
                yield error

    def classes(self) -> Mapping[str, Sequence[str]]:
        """None."""
        return {}


def _clip(row: Mapping[str, Any]) -> dict[str, Any]:
    file = f"{row.get('page_dir', '')}/{row.get('videoid', '')}.mp4".lstrip("/")
    if not row.get("videoid") or not inside(file):
        raise BadSample("columns", "a row without a video")
    return {"videoid": str(row["videoid"]), "video": file, "name": str(row.get("name", ""))}
