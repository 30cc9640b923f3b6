"""Howto-Interlink7M: films that are told clip by clip, as one document each.

    Howto-Interlink7M_subset_w_all_clips_train.tsv    columns `video`, a film, and `clips`, JSON
    howto_interlink:shards/*.tar                      tars of KEY.mp4, the film, and KEY.json with `clips`

    clips = [{"clip": "0:00:00 - 0:00:48", "caption": "The film begins …"}, …]

Films of a table TABLE.tsv are beside it, in `videos/` or in `TABLE.films/`. Those of the published tars are
shown five times as fast: `:speed=5`. Any table of this form is read, such as that of `diptych data
interleave`, whose times have milliseconds. Source: Wang et al. 2024 (COSMO).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.data.clips import Clip
from diptych.data.decode import Span
from diptych.data.endings import IMAGES, VIDEOS
from diptych.data.images import MemberImage
from diptych.data.sample import BadSample, Sample, Text, image_of
from diptych.data.sources._files import beginning, inside
from diptych.data.sources._interleaved import ROLE, Document, Documents, FilmsOptions
from diptych.data.sources.records import read_json
from diptych.data.sources.rows import CsvRows
from diptych.data.sources.tar import Tar, expand
from diptych.errors import InputError
from diptych.spec import Positive, Spec, configure

FORMAT = "howto_interlink"
PREFIX = "howto_interlink:"
VIDEO_COLUMNS = ("video", "path", "video_name")
CLIPS = "clips"
_TIME = r"(?:(?:(\d{1,3}):)?(\d{1,2}):)?(\d{1,5}(?:\.\d{1,6})?)"
_SPAN = re.compile(rf"\s*{_TIME}\s*-\s*{_TIME}\s*")


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: tab-separated values with a film and its clips."""
    head = beginning(spec, ".tsv").partition(b"\n")[0].decode("utf-8", "replace").strip()
    names = head.split("\t")
    return CLIPS in names and _film_column(names) is not None


@dataclass(frozen=True, kw_only=True)
class ShardsOptions(FilmsOptions):
    """Options of tars: how many times as fast as the times of the clips say their films are shown."""

    speed: Positive = 1.0


def open(spec: Spec) -> "Documents | FilmShards":
    """Open `FILE.tsv[:images=FOLDER][:frames=N]` or `howto_interlink:PATTERN.tar[:speed=X][:frames=N]`."""
    where = f"source {spec.name!r}"
    name = spec.name.removeprefix(PREFIX)
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        options = configure(ShardsOptions, spec.options, where)
        if options.images is not None:
            raise InputError(f"{where}: films of shards are in them; leave out :images")
        return FilmShards(name, expand(name), options)
    options = configure(FilmsOptions, spec.options, where)
    rows = CsvRows(name, delimiter="\t")
    column = _film_column(rows.columns)
    if column is None or CLIPS not in rows.columns:
        raise InputError(
            f"{name}: no columns {VIDEO_COLUMNS[0]} and {CLIPS}; compare it with Howto-Interlink7M's"
        )

    def read(row: Mapping[str, Any]) -> Document:
        film = _film(row.get(column))
        told = told_clips(row.get(CLIPS))
        return Document(
            files=[film] * len(told),
            texts=[text for _, text in told],
            owners=[[at] for at in range(len(told))],
            spans=[span for span, _ in told],
        )

    how = {"frames": options.frames, "folders": ("videos", f"{Path(name).stem}.films")}
    return Documents(name, rows, read, options.images, "Howto-Interlink7M", **how)


def _film_column(names: Sequence[str]) -> str | None:
    return next((name for name in VIDEO_COLUMNS if name in names), None)


def _film(value: Any) -> str:
    """The file of a film in the folder of films; of an address and of a whole path the last part."""
    name = str(value or "").strip()
    if "://" in name or name.startswith("/"):
        name = PurePosixPath(name).name
    if not inside(name):
        raise BadSample("columns", "a row without a film")
    return name


def told_clips(value: Any) -> list[tuple[Span, str]]:
    """The part of each clip and its text, of a list or its JSON, in order; clips without words are left
    out. Raises BadSample("columns") for another form, and if no clip has words.

    >>> told_clips('[{"clip": "0:00:05 - 0:01:00", "caption": "A cat sleeps."}]')
    [((5.0, 60.0), 'A cat sleeps.')]
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadSample("columns", "clips that are not JSON") from error
    if not isinstance(value, list):
        raise BadSample("columns", "clips that are no list")
    found = []
    for each in value:
        if not isinstance(each, Mapping) or not isinstance(each.get("caption"), str):
            raise BadSample("columns", "a clip without a caption")
        if each["caption"].strip():
            found.append((span_of(each.get("clip")), each["caption"].strip()))
    if not found:
        raise BadSample("columns", "no clip has words")
    return found


def span_of(value: Any) -> Span:
    """The seconds of `0:00:00 - 0:00:48`. Raises BadSample("columns") for another form, and for a part
    that ends before it begins.

    >>> span_of("1:02:03 - 1:02:03.500"), span_of("00:07 - 0:12")
    ((3723.0, 3723.5), (7.0, 12.0))
    """
    found = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise BadSample("columns", f"{str(value)[:40]!r} is no part of a film")
    numbers = [float(each or 0) for each in found.groups()]
    start, end = (numbers[at] * 3600 + numbers[at + 1] * 60 + numbers[at + 2] for at in (0, 3))
    if start >= end:
        raise BadSample("columns", f"{value!r} ends before it begins")
    return start, end


class FilmShards(Tar):
    """The films of tar shards, each a document of its clips."""

    def __init__(self, name: str, paths: Sequence[str], options: ShardsOptions):
        self.options = options
        super().__init__(name, paths, frames=options.frames)

    def _sample(self, index: int, arrays: bool = True) -> Sample:
        film: MemberImage | None = None
        record: Mapping[str, Any] = {}
        for extension, member in self._members(index):
            kind = extension.rpartition(".")[2]
            if kind in VIDEOS or (film is None and kind in IMAGES):
                film = member
            elif kind == "json":
                record = read_json(member.read())
        key = self._index.keys[index]
        if film is None:
            raise BadSample("no-image", f"{key} has no film")
        told = told_clips(record.get(CLIPS))
        speed = self.options.speed
        return Sample(
            key=key,
            source=self.name,
            images={
                image_of(at): Clip(film, self.options.frames, (start / speed, end / speed))
                for at, ((start, end), _) in enumerate(told)
            },
            texts=[
                Text(text=text, role=ROLE, attrs={"image": image_of(at)})
                for at, (_, text) in enumerate(told)
            ],
        )
