"""Duplicate images: hashes, sizes and thumbnails from one pass over a source, and groups of images
that are equal or look alike.

Dimensions: N samples, P images that could be read, C captions of all samples together.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image

from diptych.data.clips import is_clip
from diptych.data.compact import hash64
from diptych.data.decode import refuse_scaled_bomb
from diptych.data.images import on_ground
from diptych.data.sample import BadSample, Source
from diptych.data.spans import Workers, over
from diptych.data.tokenizers import Tokenizer


@dataclass
class Facts:
    """Facts about a source's samples: hashes, sizes and thumbnails, no images."""

    keys: list[str] = field(default_factory=list)  # N
    bad: dict[str, str] = field(default_factory=dict)
    image_keys: list[str] = field(default_factory=list)  # P: samples whose image could be read
    exact: list[int] = field(default_factory=list)  # P
    thumbnails: list[np.ndarray] = field(default_factory=list)  # P x (8, 9, 3)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    captions: list[tuple[str, int, int, int, int, int]] = field(default_factory=list)
    # C: text, its hash, sample number, characters, tokens, tokens lost
    counts: list[int] = field(default_factory=list)  # N
    labels: list[dict[str, int]] = field(
        default_factory=list
    )  # N: values of the labels with class names
    seconds: float = 0.0
    stored: int = 0

    def add(self, other: "Facts") -> None:
        """Append the facts of the samples that follow."""
        first = len(self.keys)
        shifted = [(text, code, at + first, *rest) for text, code, at, *rest in other.captions]
        self.captions += shifted  # type: ignore[arg-type]
        for name in (
            "keys",
            "image_keys",
            "exact",
            "thumbnails",
            "widths",
            "heights",
            "counts",
            "labels",
        ):
            getattr(self, name).extend(getattr(other, name))
        self.bad.update(other.bad)
        self.seconds += other.seconds
        self.stored += other.stored


class Ticks:
    """Calls `progress(done, total)` for samples done in several passes."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int):
        self.progress = progress
        self.total = total
        self.done = 0

    def __call__(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(self.done, self.total)


def look(
    sources: Sequence[Source], tokenizer: Tokenizer | None, workers: Workers, ticks: Ticks
) -> list[Facts]:
    """Read all samples of each source in one pass; the tokenizer counts the tokens of the first
    source."""
    facts = [Facts() for _ in sources]
    looks = [partial(_look_at, None if which else tokenizer) for which in range(len(sources))]
    for which, part in over(sources, looks, workers):
        facts[which].add(part)
        ticks(len(part.keys))
    return facts


def _look_at(tokenizer: Tokenizer | None, source: Source, indices: range) -> Facts:
    facts = Facts()
    keys = source.keys()
    schema = source.schema()
    has_images = any(name.startswith("images.") for name in schema)
    named = [
        name.removeprefix("labels.")
        for name in schema
        if name.startswith("labels.") and schema[name].classes
    ]
    for index in indices:
        facts.keys.append(keys[index])
        try:
            sample = source[index]
        except BadSample as bad:
            facts.bad[keys[index]] = bad.reason
            facts.counts.append(0)
            facts.labels.append({})
            continue
        facts.labels.append({name: int(sample.labels.get(name, -1)) for name in named})
        texts = sample.captions()
        facts.counts.append(len(texts))
        for text in texts:
            tokens, lost = (len(tokenizer.ids(text)), tokenizer.lost(text)) if tokenizer else (0, 0)
            facts.captions.append((text, _code(text), len(facts.keys) - 1, len(text), tokens, lost))
        if has_images and not sample.images:
            facts.bad.setdefault(keys[index], "no-image")
        for role, encoded in sample.images.items():
            try:
                start = time.perf_counter()
                data = encoded.read()
                image = encoded.decode()
                if is_clip(encoded):
                    encoded.frames()  # any of which may be damaged
                facts.seconds += time.perf_counter() - start
                thumbnail = _thumbnail(image)
            except BadSample as bad:
                facts.bad.setdefault(keys[index], bad.reason)
                continue
            facts.stored += len(data)
            if role == "main":
                facts.image_keys.append(keys[index])
                facts.exact.append(hash64(data))
                facts.thumbnails.append(thumbnail)
                facts.widths.append(image.width)
                facts.heights.append(image.height)
    return facts


def _code(caption: str) -> int:
    """A hash of a caption that ignores case and whitespace."""
    return hash64(" ".join(caption.casefold().split()).encode("utf-8", "surrogatepass"))


def _thumbnail(image: Image.Image) -> np.ndarray:
    refuse_scaled_bomb(image.size, (9, 8))
    return np.asarray(on_ground(image).resize((9, 8), Image.Resampling.BOX))


def groups_of_equal(codes: Sequence[int]) -> list[list[int]]:
    """Groups of at least two indices with equal codes."""
    found: dict[int, list[int]] = {}
    for place, code in enumerate(codes):
        found.setdefault(code, []).append(place)
    return [places for places in found.values() if len(places) > 1]


def groups_alike(facts: Facts) -> list[list[int]]:
    """Groups of indices of images that look alike, by single linkage of the pairs of
    `alike_pairs`."""
    parent = list(range(len(facts.thumbnails)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for a, b in alike_pairs(facts.thumbnails):
        parent[root(b)] = root(a)
    return groups_of_equal([root(place) for place in range(len(parent))])


def alike_pairs(
    thumbnails: Sequence[np.ndarray], near: int = 4, reach: int = 4
) -> list[tuple[int, int]]:
    """Pairs of thumbnails (8, 9, 3) that differ by less than `near` grey levels on average.

    Candidates share one of four 16-bit parts of the difference hash (whether grey decreases from
    each pixel to its right neighbour) and are within `reach` places of each other when sorted by
    brightness. This avoids comparing all pairs, but may miss some.
    """
    if len(thumbnails) < 2:
        return []
    pixels = np.stack(thumbnails).astype(np.int16)
    grey = pixels.mean(-1, dtype=np.float32)
    falls = np.packbits(grey[:, :, :-1] - grey[:, :, 1:] > 2, axis=-1)[
        ..., 0
    ]  # (P, 8): a byte a row
    parts = np.ascontiguousarray(falls).view(np.uint16)  # (P, 4): two rows each
    pairs: set[tuple[int, int]] = set()
    for part in parts.T:
        order = np.lexsort((grey.mean((1, 2)), part))
        for step in range(1, reach + 1):
            a = order[:-step]
            b = order[step:]
            same = part[a] == part[b]
            a = a[same]
            b = b[same]
            close = np.abs(pixels[a] - pixels[b]).mean((1, 2, 3)) < near
            pairs.update(
                zip(np.minimum(a, b)[close].tolist(), np.maximum(a, b)[close].tolist(), strict=True)
            )
    return sorted(pairs)


def shown_elsewhere(
    source: Source,
    others: Sequence[Source],
    *,
    workers: Workers = 0,
    progress: Callable[[int, int], None] | None = None,
) -> set[str]:
    """The keys of a source's samples whose main image equals, or looks like, an image of the other
    sources.

    >>> from diptych.data.sources import open_source
    >>> one, other = open_source("scenes:count=6:texts=caption"), open_source("scenes:count=4:start=4:texts=caption")
    >>> sorted(shown_elsewhere(one, [other]))
    ['train-0-000004', 'train-0-000005']
    """
    ticks = Ticks(progress, len(source) + sum(len(other) for other in others))
    mine, *rest = look([source, *others], None, workers, ticks)
    theirs = Facts()
    for facts in rest:
        theirs.add(facts)
    same, alike = shared(theirs, mine)
    return {*same, *alike}


def shared(first: Facts, second: Facts) -> tuple[dict[str, str], dict[str, str]]:
    """The keys of `second` whose image equals one of `first`, and those whose image looks like one,
    each with the key of the first such image."""
    images = dict(zip(reversed(first.exact), reversed(first.image_keys), strict=True))
    border = len(first.thumbnails)
    same = {
        key: images[code]
        for key, code in zip(second.image_keys, second.exact, strict=True)
        if code in images
    }
    alike: dict[str, str] = {}
    for pair in alike_pairs([*first.thumbnails, *second.thumbnails]):
        if min(pair) < border <= max(pair):
            alike.setdefault(second.image_keys[max(pair) - border], first.image_keys[min(pair)])
    return same, alike
