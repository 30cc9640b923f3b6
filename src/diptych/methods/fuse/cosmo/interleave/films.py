"""Films, and the clips that they are cut into.

A film is cut where its picture changes at once. The change of a frame is that of the middle one of
16 x 16 cells, so that something that moves or appears in less than half of the picture is no cut:

    d_t = median over cells of |x_t - x_{t-1}| / 255

There is a cut before frame t if d_t is at least `min_change`, and at least `min_ratio` times the median of the
`WINDOW` changes before it and behind it, so that a camera that pans cuts nothing. Fades are not found.
"""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.clips import AnyClip, FrameStack, animated
from diptych.data.decode import UNTIMED, Span, animation_pixels
from diptych.data.images import FileImage, file_of
from diptych.data.sample import BadSample, Sample, Source
from diptych.data.sources._interleaved import part_of
from diptych.data.sources.folder import frames_in
from diptych.data.video import video_form, video_pixels
from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.spec import Count, Positive

CELLS = 16
WINDOW = 4
"""Changes before a frame, and behind it, that its own is compared with."""


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """Where films are cut: where the change is at least `min_change`, and `min_ratio` times the usual one.
    A clip of less than `min_seconds` is joined with the next one, and one of more than `max_seconds` is
    cut into equal parts."""

    min_change: Positive = 0.04
    min_ratio: Positive = 3.0
    min_seconds: Positive = 0.5
    max_seconds: Positive = 60.0

    def __post_init__(self) -> None:
        if self.max_seconds < 2 * self.min_seconds:
            raise InputError(
                f"clips of at least {self.min_seconds:g} s cannot have at most {self.max_seconds:g} s; give a "
                "max_seconds of twice min_seconds or more"
            )


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is known of a part of a film: the sample that shows it, and its number in the source."""

    span: Span
    sample: Sample
    number: int


@dataclass(frozen=True, kw_only=True)
class Film:
    """A film by its key: its file or folder, as a path below the folder of the films, and the parts of
    which something is known. `where` is the path itself without the ending, by which a transcript has
    its name."""

    key: str
    name: str
    path: str
    where: str
    parts: tuple[Part, ...]

    def clip(self, span: Span, frames: int) -> AnyClip:
        """A part of the film, as so many frames."""
        return part_of(self.path, span, frames)

    def part(self, span: Span) -> Part | None:
        """What is known of the middle of a clip."""
        middle = sum(span) / 2
        return next((p for p in self.parts if p.span[0] <= middle < p.span[1]), None)


@dataclass(kw_only=True)
class Films:
    """The films of a source, the folder that they are in, and the reasons for samples left out."""

    root: str
    films: list[Film] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)


def films_of(source: Source, folder: Path, join: Count = 1) -> Films:
    """The films of a source of clips, one a sample, or of `join` consecutive samples each.

    Films in files, and folders of frames, stay where they are. Others, and joined ones, are written to
    `folder` as animated PNG files, with `UNTIMED` milliseconds for each of the frames that are read.
    Raises InputError for a source without clips, and for one that has films of both kinds.
    """
    if "images.frames" not in source.schema():
        raise InputError(
            f"{source.name} has no clips; name videos, folders of frames with :frames=N, or scenes:film=8"
        )
    found = Films(root="")
    places: set[bool] = set()
    for start in range(0, len(source), join):
        numbers = range(start, min(start + join, len(source)))
        try:
            samples = [source[number] for number in numbers]
            clips = [_clip(sample) for sample in samples]
            path = _place(clips[0]) if join == 1 else ""
            places.add(bool(path))
            if len(places) > 1:
                raise InputError(
                    f"{source.name} has films in files and others; name two sources, one after the other"
                )
            if path:
                whole = Part(span=(0.0, float("inf")), sample=samples[0], number=start)
                film = Film(
                    key=samples[0].key, name="", path=path, where=_stem(path), parts=(whole,)
                )
            else:
                film = _written(samples, clips, start, folder)
        except BadSample as bad:
            found.damaged[source.keys()[start]] = bad.reason
            continue
        found.films.append(film)
    if not found.films:
        raise InputError(f"no film of {source.name} can be read; look at it with diptych check")
    paths = [os.path.abspath(film.path) for film in found.films]  # noqa: PTH100
    found.root = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    found.films = [
        replace(film, name=os.path.relpath(path, found.root))
        for film, path in zip(found.films, paths, strict=True)
    ]
    return found


def _clip(sample: Sample) -> AnyClip:
    clip: Any = sample.images.get("frames")
    if clip is None:
        raise BadSample("no-frames", f"{sample.key} is no clip")
    return clip


def _place(clip: AnyClip) -> str:
    """The file of a clip, or the folder of its frames; "" of another one."""
    if not isinstance(clip, FrameStack):
        return file_of(clip)  # type: ignore[arg-type]  # an image of a sample
    files = [image.path if isinstance(image, FileImage) else "" for image in clip.images]
    folders = {os.path.dirname(path) for path in files}  # noqa: PTH120
    return folders.pop() if all(files) and len(folders) == 1 else ""


def _stem(path: str) -> str:
    return path if os.path.isdir(path) else os.path.splitext(path)[0]  # noqa: PTH112,PTH122


def _written(samples: Sequence[Sample], clips: Sequence[AnyClip], start: int, folder: Path) -> Film:
    """The film of some clips, written to a file."""
    parts = []
    frames: list[Image.Image] = []
    for number, (sample, clip) in enumerate(zip(samples, clips, strict=True), start):
        shown = (
            [image.decode() for image in clip.images]
            if isinstance(clip, FrameStack)
            else clip.frames()
        )
        first = len(frames)
        frames += shown
        span = (first * UNTIMED / 1000, len(frames) * UNTIMED / 1000)
        parts.append(Part(span=span, sample=sample, number=number))
    if len({frame.size for frame in frames}) > 1:
        raise BadSample("frame-sizes", "clips of different sizes in one film")
    key = samples[0].key
    path = folder / f"{re.sub(r'[^0-9A-Za-z_-]', '_', key)}.png"
    folder.mkdir(parents=True, exist_ok=True)
    data = animated(frames)
    write_atomic(path, lambda at: at.write_bytes(data))
    return Film(
        key=key, name="", path=str(path), where=str(path.with_suffix("")), parts=tuple(parts)
    )


def pixels_of(path: str, side: int = CELLS) -> Iterator[tuple[float, np.ndarray]]:
    """The frames of a film in order, (side, side, 3) uint8, with the second at which each begins, and at
    the end the second at which the last one ends. Raises BadSample if it cannot be read."""
    if os.path.isdir(path):  # noqa: PTH112
        pixels = np.zeros(0)
        images = frames_in(path)
        for number, image in enumerate(images):
            small = image.decode(side).convert("RGB").resize((side, side), Image.Resampling.BOX)
            pixels = np.asarray(small)
            yield number * UNTIMED / 1000, pixels
        yield len(images) * UNTIMED / 1000, pixels
        return
    data = FileImage(path).read()
    read = animation_pixels if video_form(data) is None else video_pixels
    yield from read(data, side)


def clips_of(path: str, cuts: Cuts) -> list[Span]:
    """The clips of a film, in seconds. Raises BadSample if it cannot be read."""
    times: list[float] = []
    changes: list[float] = []
    before: np.ndarray | None = None
    for time, pixels in pixels_of(path):
        now = pixels.astype(np.int16)
        if before is not None:
            changes.append(float(np.median(np.abs(now - before).mean(-1))) / 255)
        times.append(time)
        before = now
    if times[-1] <= times[0]:
        raise BadSample("no-frames", f"{path} has no frames")
    return spans(times, changes[:-1], cuts)


def spans(times: Sequence[float], changes: Sequence[float], cuts: Cuts) -> list[Span]:
    """The clips of a film whose N frames begin, and the last one ends, at the N + 1 `times`, by the N - 1
    changes before each frame but the first.

    >>> spans([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0, 0, 0.3, 0, 0], Cuts())
    [(0.0, 3.0), (3.0, 6.0)]
    """
    starts = [0]
    for at, change in enumerate(changes):
        near = [*changes[max(at - WINDOW, 0) : at], *changes[at + 1 : at + 1 + WINDOW]]
        usual = median(near) if near else 0.0
        if change >= max(cuts.min_change, cuts.min_ratio * usual):
            starts.append(at + 1)
    bounds = [times[at] for at in starts] + [times[-1]]
    joined = [bounds[0]]
    for bound in bounds[1:]:
        if bound - joined[-1] >= cuts.min_seconds:
            joined.append(bound)
    if len(joined) == 1:
        joined.append(bounds[-1])
    joined[-1] = bounds[-1]
    found: list[Span] = []
    for start, end in itertools.pairwise(joined):
        count = max(1, int(np.ceil((end - start) / cuts.max_seconds)))
        edges = [start + (end - start) * at / count for at in range(count)] + [end]
        found += itertools.pairwise(edges)
    return found
