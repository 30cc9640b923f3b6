"""MSR-VTT's annotations: videos with twenty sentences and a category each.

train_val_videodatainfo.json    {"videos": [{"video_id": "video0", "category": 9, "split": "train", …}, …],
                                 "sentences": [{"video_id": "video0", "caption": …}, …]}
category.txt                    music<TAB>0, beside it: the names of the categories

`:split=test` takes the videos of a split, `:ids=MSRVTT_JSFUSION_test.csv` those of a list, with its
sentences in place of all. Source: Xu et al. 2016; Yu et al. 2018 (JSFusion), the list of 1,000.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.sample import BadSample
from diptych.data.sources._files import beginning, inside, root_of
from diptych.data.sources.records import json_of
from diptych.data.sources.rows import open_rows
from diptych.data.sources.table import Table, TableOptions
from diptych.errors import InputError, brief
from diptych.spec import Spec, configure

FORMAT = "msr_vtt"
_FOLDERS = ("all", "videos", "videos/all", "TrainValVideo", "TestVideo")
_TRIED = 1000  # videos, some of which may be missing


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """Options of MSR-VTT: the folder of the videos, the splits, a list of videos, and how many frames
    of a clip are read."""

    images: str | None = None
    split: str | None = None
    ids: str | None = None
    frames: int | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a JSON file that names videos by `video_id`."""
    start = beginning(spec, ".json")
    return b'"video_id"' in start and (b'"videos"' in start or b'"sentences"' in start)


def open(spec: Spec) -> Table:
    """Open `train_val_videodatainfo.json[:split=A+B][:ids=FILE.csv][:images=FOLDER][:frames=N]`.

    Raises InputError for a file of another form, and for a folder without videos.
    """
    options = configure(VideoOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    try:
        listed = None if options.ids is None else _listed(options.ids)
        rows = VideoRows(path, json_of(path), listed, options.split is not None)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: a video or a sentence lacks {brief(error)}; compare it with MSR-VTT's own file"
        ) from error
    first = list(dict.fromkeys(row["video"] for row in rows.rows[: 20 * _TRIED]))[:_TRIED]
    root, _ = root_of(path, first, options.images, _FOLDERS)
    columns = TableOptions(
        image="video",
        text="caption",
        label="category",
        split=options.split,
        root=str(root),
        frames=options.frames,
    )
    return Table(spec.name, rows, columns)


class VideoRows:
    """A row for each sentence: video, caption, category and split."""

    def __init__(self, path: Path, data: Any, listed: Mapping[str, str | None] | None, split: bool):
        self.path = str(path)
        self.columns: Sequence[str] = ("video", "caption", "category", *["split"] * split)
        videos = {each["video_id"]: each for each in data["videos"]}
        said = [(each["video_id"], each["caption"]) for each in data["sentences"]]
        if listed is not None:
            said = _selected(said, listed)
        self.rows = [_row(name, text, videos[name], self.columns) for name, text in said]
        if not self.rows:
            raise InputError(f"{path}: no sentence is of a video that is asked for; check the list")
        self._names = _categories(path.parent / "category.txt")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def scan(self) -> Iterator[dict[str, Any] | BadSample]:
        """Every row in order."""
        return iter(self.rows)

    def classes(self) -> Mapping[str, Sequence[str]]:
        """The names of the categories, where `category.txt` is beside the file."""
        return {"category": self._names} if self._names else {}


def _row(
    name: Any, caption: Any, video: Mapping[str, Any], columns: Sequence[str]
) -> dict[str, Any]:
    if not isinstance(name, str) or not isinstance(caption, str) or not inside(name):
        raise TypeError("a name and a caption that are texts")
    row = {
        "video": f"{name}.mp4",
        "caption": caption,
        "category": int(video.get("category", -1)),
        "split": str(video.get("split", "")),
    }
    return {column: row[column] for column in columns}


def _selected(
    said: Sequence[tuple[str, str]], listed: Mapping[str, str | None]
) -> list[tuple[str, str]]:
    """The sentences of listed videos; a list with sentences of its own replaces all."""
    if any(listed.values()):
        return [(name, text) for name, text in listed.items() if text]
    return [pair for pair in said if pair[0] in listed]


def _listed(path: str) -> dict[str, str | None]:
    """The videos of a list by `video_id`, each with its `sentence` if it has one."""
    if not Path(path).is_file():
        raise InputError(f"ids={path}: no such file; check the path")
    rows = open_rows(path)
    if "video_id" not in rows.columns:
        raise InputError(f"ids={path}: no column video_id among {', '.join(rows.columns)}")
    found = [row for row in rows.scan() if not isinstance(row, BadSample) and "video_id" in row]
    return {str(row["video_id"]): row.get("sentence") for row in found}


def _categories(path: Path) -> list[str]:
    """The names of the categories by their numbers; none without the file."""
    if not path.is_file():
        return []
    pairs = [line.rpartition("\t") for line in path.read_text("utf-8").splitlines()]
    names = {int(number): name for name, _, number in pairs if name and number.strip().isdigit()}
    return [names.get(number, str(number)) for number in range(max(names, default=-1) + 1)]
