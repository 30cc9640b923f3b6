"""One clip in a file of its own: `dance.mp4`, or `wave.gif:frames=8`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from diptych.data.clips import check_frames, images_of_file
from diptych.data.compact import is_folder
from diptych.data.endings import ANIMATED, VIDEOS, ending
from diptych.data.images import FileImage
from diptych.data.sample import Field, Sample, Schema, path_text
from diptych.data.video import require_video
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "clip"


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """Options of a clip: how many of its frames are read."""

    frames: int | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a video, or an animation of which frames are asked for."""
    kind = ending(spec.name)
    return (kind in VIDEOS or (kind in ANIMATED and "frames" in spec.options)) and not is_folder(
        spec
    )


def open(spec: Spec) -> "OneClip":
    """Open `FILE[:frames=N]`. Raises InputError for a missing file, and for a video without PyAV."""
    options = configure(ClipOptions, spec.options, f"source {spec.name!r}")
    check_frames(options.frames, spec.name)
    if not os.path.isfile(spec.name):  # noqa: PTH113  (False for any text)
        raise InputError(f"{spec.name}: no such file; check the path")
    if ending(spec.name) in VIDEOS:
        require_video(f"reading {spec.name}")
    return OneClip(spec.name, options.frames)


class OneClip:
    """A source of one sample, whose key is the file's name."""

    def __init__(self, path: str, frames: int | None):
        self.name = path
        self.frames = frames

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        key = self.keys()[index]
        images = images_of_file(self.name, FileImage(self.name), self.frames)
        return Sample(key=key, source=self.name, images=images)

    def keys(self) -> Sequence[str]:
        """The file's name."""
        return [path_text(os.path.basename(self.name))]  # noqa: PTH119

    def schema(self) -> Schema:
        """The clip, and its middle frame."""
        return {f"images.{role}": Field(kind="image") for role in ("main", "frames")}
