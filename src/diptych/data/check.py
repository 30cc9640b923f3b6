"""What is wrong with a data set, before a model is trained on it: one pass over every sample, nothing printed.

Unreadable pictures by reason, pictures that occur twice, caption lengths and what a tokenizer would cut off, equal
captions (which a contrastive loss takes for negatives), pictures and captions shared with the validation data, and what
a batch and an epoch will cost.

Dimensions: N samples, C captions of all samples together.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.pictures import on_ground
from diptych.data.sample import BadSample, Source
from diptych.data.sources.compact import hash64
from diptych.data.tokenizers import Tokenizer

_SHOWN = 20  # examples of each kind kept in a report
_CHUNK = 64  # samples handed to a process at once


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A quantity over a data set."""

    least: float
    median: float
    p95: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """The spread of some numbers; zeros where there are none."""
        array = np.fromiter(values, float)
        if not len(array):
            return cls(least=0, median=0, p95=0, most=0)
        least, median, p95, most = np.percentile(array, [0, 50, 95, 100]).tolist()
        return cls(least=least, median=median, p95=p95, most=most)


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Pictures that occur more than once: `pictures` that could go, and some `groups` of keys that are one picture."""

    pictures: int
    groups: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Captions of all samples. `cut` of them lose tokens to the tokenizer's context, `lost` tokens in all."""

    count: int
    per_sample: Spread
    characters: Spread
    tokens: Spread | None
    context: int | None
    cut: int
    lost: int


@dataclass(frozen=True, kw_only=True)
class FalseNegatives:
    """Equal captions of different samples: how many of a sample's batch-mates a contrastive loss wrongly pushes away.

    With w_i(t) the chance that sample i shows caption t, a random batch of B from N samples holds, for each sample,
    (B - 1) / (N (N - 1)) * sum over i != j and t of w_i(t) w_j(t) mates whose caption equals its own.
    """

    batch: int
    per_sample: float
    per_batch: float
    captions: list[tuple[str, int]]  # the captions that most samples share, with their number of samples


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """Validation samples whose picture, look-alike or caption is in the training data too; some of their keys."""

    samples: int
    same_picture: int
    alike_picture: int
    same_caption: int
    examples: list[str]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What reading will take. Times are those of one process on this machine, now."""

    read_ms: float  # reading and decoding one picture
    epoch_seconds: float  # the whole data, one process
    stored_bytes: int  # encoded pictures, all together
    batch_bytes: int  # a batch of uint8 pictures
    similarity_bytes: int  # its B x B logits in float32, were they kept whole


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `check` found. `damage` counts by reason, `damaged` tells where (place or key -> reason).

    `samples` of the source were looked at, beside those that it had already lost (a tar cut short, a bad row).
    """

    source: str
    samples: int
    damage: dict[str, int]
    damaged: dict[str, str]
    bad_share: float  # of all samples, the lost ones included: what --max-bad is held against
    widths: Spread
    heights: Spread
    duplicates: Duplicates  # the same bytes
    alike: Duplicates  # nearly the same pixels, at 9 x 8
    captions: Captions
    false_negatives: FalseNegatives
    leakage: Leakage | None
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON keeps them."""
        return asdict(self)


def check(
    source: Source,
    *,
    val: Source | None = None,
    tokenizer: Tokenizer | None = None,
    batch_size: int = 256,
    size: int = 224,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Look at every sample of `source`, and at those of `val` for leakage.

    `size` is the side in pixels that pictures will be trained at, `workers` the number of processes that look, and
    `progress(done, total)` is called as they do.
    """
    total = len(source) + (len(val) if val else 0)
    ticks = _Ticks(progress, total)
    facts = _look(source, tokenizer, workers, ticks)
    lost = dict(getattr(source, "damage", {}))
    damaged = {**lost, **facts.bad}
    exact = _groups_of_equal(facts.exact)
    alike = _groups_alike(facts)
    return Report(
        source=source.name,
        samples=len(source),
        damage=dict(Counter(damaged.values())),
        damaged=damaged,
        bad_share=len(damaged) / max(1, len(source) + len(lost)),
        widths=Spread.of(facts.widths),
        heights=Spread.of(facts.heights),
        duplicates=_duplicates(exact, facts.picture_keys),
        alike=_duplicates(alike, facts.picture_keys),
        captions=_captions(facts, tokenizer),
        false_negatives=_false_negatives(facts, batch_size),
        leakage=_leakage(facts, _look(val, None, workers, ticks)) if val else None,
        cost=Cost(
            read_ms=1000 * facts.seconds / max(1, len(facts.picture_keys)),
            epoch_seconds=facts.seconds / max(1, len(facts.picture_keys)) * len(source),
            stored_bytes=facts.stored,
            batch_bytes=batch_size * 3 * size * size,
            similarity_bytes=4 * batch_size**2,
        ),
    )


@dataclass
class _Facts:
    """What the pass keeps of a source: hashes and sizes, no pictures."""

    keys: list[str] = field(default_factory=list)  # N
    bad: dict[str, str] = field(default_factory=dict)
    picture_keys: list[str] = field(default_factory=list)  # P: samples whose picture could be read
    exact: list[int] = field(default_factory=list)  # P
    thumbnails: list[np.ndarray] = field(default_factory=list)  # P x (8, 9, 3)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    captions: list[tuple[str, int, int, int, int, int]] = field(default_factory=list)
    # C: text, its hash, sample number, characters, tokens, tokens lost
    counts: list[int] = field(default_factory=list)  # N
    seconds: float = 0.0
    stored: int = 0

    def add(self, other: "_Facts") -> None:
        """Append the facts of the samples that follow."""
        first = len(self.keys)
        shifted = [(text, code, at + first, *rest) for text, code, at, *rest in other.captions]
        self.captions += shifted  # type: ignore[arg-type]
        for name in ("keys", "picture_keys", "exact", "thumbnails", "widths", "heights", "counts"):
            getattr(self, name).extend(getattr(other, name))
        self.bad.update(other.bad)
        self.seconds += other.seconds
        self.stored += other.stored


class _Ticks:
    def __init__(self, progress: Callable[[int, int], None] | None, total: int):
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(self.done, self.total)


def _look(source: Source, tokenizer: Tokenizer | None, workers: int, ticks: _Ticks) -> _Facts:
    ranges = [range(start, min(start + _CHUNK, len(source))) for start in range(0, len(source), _CHUNK)]
    look = partial(_look_at, source, tokenizer)
    facts = _Facts()
    for part in _mapped(look, ranges, workers):
        facts.add(part)
        ticks(len(part.keys))
    return facts


def _mapped(look: Callable[[range], _Facts], ranges: Sequence[range], workers: int) -> Iterator[_Facts]:
    if workers < 1:
        yield from map(look, ranges)
    else:
        with ProcessPoolExecutor(workers) as pool:
            yield from pool.map(look, ranges)


def _look_at(source: Source, tokenizer: Tokenizer | None, indices: range) -> _Facts:
    facts = _Facts()
    keys = source.keys()
    pictured = any(name.startswith("images.") for name in source.schema())
    for index in indices:
        facts.keys.append(keys[index])
        try:
            sample = source[index]
        except BadSample as bad:
            facts.bad[keys[index]] = bad.reason
            facts.counts.append(0)
            continue
        texts = sample.captions()
        facts.counts.append(len(texts))
        for text in texts:
            tokens, lost = (len(tokenizer.ids(text)), tokenizer.lost(text)) if tokenizer else (0, 0)
            facts.captions.append((text, _code(text), len(facts.keys) - 1, len(text), tokens, lost))
        if pictured and not sample.images:
            facts.bad.setdefault(keys[index], "no-picture")
        for role, picture in sample.images.items():
            try:
                start = time.perf_counter()
                data = picture.read()
                image = picture.decode()
                facts.seconds += time.perf_counter() - start
            except BadSample as bad:
                facts.bad.setdefault(keys[index], bad.reason)
                continue
            facts.stored += len(data)
            if role == "main":
                facts.picture_keys.append(keys[index])
                facts.exact.append(hash64(data))
                facts.thumbnails.append(_thumbnail(image))
                facts.widths.append(image.width)
                facts.heights.append(image.height)
    return facts


def _code(caption: str) -> int:
    """Captions that differ in case or spaces alone are equal."""
    return hash64(" ".join(caption.casefold().split()).encode("utf-8", "surrogatepass"))


def _thumbnail(image: Image.Image) -> np.ndarray:
    return np.asarray(on_ground(image).resize((9, 8), Image.Resampling.BOX))


def _groups_of_equal(codes: Sequence[int]) -> list[list[int]]:
    """Places of equal codes, only where there are at least two."""
    found: dict[int, list[int]] = {}
    for place, code in enumerate(codes):
        found.setdefault(code, []).append(place)
    return [places for places in found.values() if len(places) > 1]


def _groups_alike(facts: _Facts) -> list[list[int]]:
    """Places of pictures that look the same, by single linkage of the pairs that `_alike` finds."""
    parent = list(range(len(facts.thumbnails)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for a, b in _alike(facts.thumbnails):
        parent[root(b)] = root(a)
    return _groups_of_equal([root(place) for place in range(len(parent))])


def _alike(thumbnails: Sequence[np.ndarray], near: int = 4, reach: int = 4) -> list[tuple[int, int]]:
    """Pairs of thumbnails (8, 9, 3) that differ by less than `near` grey levels on average.

    Candidates share one of four 16-bit parts of the difference hash (whether grey falls from each pixel to its right
    neighbour) and stand within `reach` of each other when sorted by brightness: linear time, not every last pair.
    """
    if len(thumbnails) < 2:
        return []
    pixels = np.stack(thumbnails).astype(np.int16)
    grey = pixels.mean(-1, dtype=np.float32)
    falls = np.packbits(grey[:, :, :-1] - grey[:, :, 1:] > 2, axis=-1)[..., 0]  # (P, 8): a byte a row
    parts = np.ascontiguousarray(falls).view(np.uint16)  # (P, 4): two rows each
    pairs: set[tuple[int, int]] = set()
    for part in parts.T:
        order = np.lexsort((grey.mean((1, 2)), part))
        for step in range(1, reach + 1):
            a, b = order[:-step], order[step:]
            same = part[a] == part[b]
            a, b = a[same], b[same]
            close = np.abs(pixels[a] - pixels[b]).mean((1, 2, 3)) < near
            pairs.update(zip(np.minimum(a, b)[close].tolist(), np.maximum(a, b)[close].tolist(), strict=True))
    return sorted(pairs)


def _duplicates(groups: Sequence[Sequence[int]], keys: Sequence[str]) -> Duplicates:
    return Duplicates(
        pictures=sum(len(group) - 1 for group in groups),
        groups=[[keys[place] for place in group[:_SHOWN]] for group in groups[:_SHOWN]],
    )


def _captions(facts: _Facts, tokenizer: Tokenizer | None) -> Captions:
    lost = [entry[5] for entry in facts.captions]
    return Captions(
        count=len(facts.captions),
        per_sample=Spread.of(facts.counts),
        characters=Spread.of(entry[3] for entry in facts.captions),
        tokens=Spread.of(entry[4] for entry in facts.captions) if tokenizer else None,
        context=tokenizer.context if tokenizer else None,
        cut=sum(count > 0 for count in lost),
        lost=sum(lost),
    )


def _false_negatives(facts: _Facts, batch: int) -> FalseNegatives:
    n = len(facts.keys)
    batch = min(batch, n)
    shares: dict[int, dict[int, float]] = {}  # caption -> sample -> w
    words: dict[int, str] = {}
    for text, code, at, *_ in facts.captions:
        weights = shares.setdefault(code, {})
        weights[at] = weights.get(at, 0.0) + 1 / facts.counts[at]
        words.setdefault(code, text)
    shared = {code: weights for code, weights in shares.items() if len(weights) > 1}
    pairs = math.fsum(sum(w.values()) ** 2 - sum(x * x for x in w.values()) for w in shared.values())
    each = pairs * (batch - 1) / (n * (n - 1)) if n > 1 else 0.0
    most = sorted(shared, key=lambda code: (-len(shared[code]), words[code]))[:_SHOWN]
    return FalseNegatives(
        batch=batch,
        per_sample=each,
        per_batch=each * batch,
        captions=[(words[code], len(shared[code])) for code in most],
    )


def shown_elsewhere(
    source: Source, others: Sequence[Source], *, workers: int = 0, progress: Callable[[int, int], None] | None = None
) -> set[str]:
    """The keys of a source's samples whose main picture is one of the others', or looks like one.

    >>> from diptych.data.sources import open_source
    >>> one, other = open_source("scenes:count=6:texts=caption"), open_source("scenes:count=4:start=4:texts=caption")
    >>> sorted(shown_elsewhere(one, [other]))
    ['train-0-000004', 'train-0-000005']
    """
    ticks = _Ticks(progress, len(source) + sum(len(other) for other in others))
    mine = _look(source, None, workers, ticks)
    theirs = _Facts()
    for other in others:
        theirs.add(_look(other, None, workers, ticks))
    same, alike = _shared(theirs, mine)
    return same | alike


def _shared(first: _Facts, second: _Facts) -> tuple[set[str], set[str]]:
    """The keys of the second whose picture is equal to one of the first, and whose picture looks like one."""
    pictures, border = set(first.exact), len(first.thumbnails)
    same = {key for key, code in zip(second.picture_keys, second.exact, strict=True) if code in pictures}
    pairs = _alike([*first.thumbnails, *second.thumbnails])
    return same, {second.picture_keys[max(pair) - border] for pair in pairs if min(pair) < border <= max(pair)}


def _leakage(train: _Facts, val: _Facts) -> Leakage:
    captions = {entry[1] for entry in train.captions}
    same, alike = _shared(train, val)
    told = {val.keys[entry[2]] for entry in val.captions if entry[1] in captions}
    return Leakage(
        samples=len(val.keys),
        same_picture=len(same),
        alike_picture=len(alike - same),
        same_caption=len(told),
        examples=sorted(same | alike)[:_SHOWN] or sorted(told)[:_SHOWN],
    )
