"""Check a data set before training on it, in one pass over all samples.

The report covers unreadable images by reason, duplicate images, caption lengths and their
truncation by a tokenizer, equal captions (false negatives of a contrastive loss), images and
captions shared with the validation data, and the cost of a batch and an epoch.

Dimensions: N samples, C captions of all samples together.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diptych.data.decode import refuse_scaled_bomb
from diptych.data.duplicates import Facts, Ticks, groups_alike, groups_of_equal, look, shared
from diptych.data.images import Preprocess
from diptych.data.sample import BadSample, Source
from diptych.data.spans import Workers
from diptych.data.tokenizers import Tokenizer

_SHOWN = 20  # examples of each kind kept in a report


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The distribution of a quantity over a data set."""

    min: float
    median: float
    p95: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """The spread of some numbers; zeros if there are none."""
        array = np.fromiter(values, float)
        if not len(array):
            return cls(min=0, median=0, p95=0, max=0)
        smallest, median, p95, largest = np.percentile(array, [0, 50, 95, 100]).tolist()
        return cls(min=smallest, median=median, p95=p95, max=largest)


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Duplicate images: `images` is the number of redundant ones, `groups` are some groups of keys
    of one image."""

    images: int
    groups: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class Classes:
    """A label with named classes: the number of readable samples per class, and of those `without`
    a class.

    `images` is the number of images that occur in several classes, byte for byte; `twice` lists
    some of them by keys and classes.
    """

    label: str
    counts: dict[str, int]
    without: int
    images: int
    twice: list[tuple[list[str], list[str]]]

    @property
    def empty(self) -> list[str]:
        """The classes without a sample."""
        return [name for name, count in self.counts.items() if not count]


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Captions of all samples. The tokenizer's context truncates `cut` of them, by `lost` tokens in
    total."""

    count: int
    per_sample: Spread
    characters: Spread
    tokens: Spread | None
    context: int | None
    cut: int
    lost: int


@dataclass(frozen=True, kw_only=True)
class FalseNegatives:
    """Equal captions of different samples, which a contrastive loss wrongly treats as negatives.

    With w_i(t) the probability that sample i shows caption t, a random batch of B from N samples
    has, per sample, (B - 1) / (N (N - 1)) * sum over i != j and t of w_i(t) w_j(t) other samples
    with the same caption on average.
    """

    batch: int
    per_sample: float
    per_batch: float  # over all samples of a batch, so each pair of equal captions counts twice
    captions: list[
        tuple[str, int]
    ]  # the captions shared by most samples, with the number of samples


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """The numbers of validation samples whose image, a near-duplicate of it, or caption is also in
    the training data.

    `pairs` are some of them: the key in the validation data, the key in the training data, and what
    they share.
    """

    samples: int
    same_image: int
    alike_image: int
    same_caption: int
    examples: list[str]
    pairs: list[tuple[str, str, str]]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of reading. Times are for one process on this machine."""

    read_ms: float  # reading and decoding one image
    epoch_seconds: float  # the whole data, one process
    stored_bytes: int  # encoded images, all together
    batch_bytes: int  # a batch of uint8 images
    similarity_bytes: int  # its B x B logits in float32, if stored whole


@dataclass(frozen=True, kw_only=True)
class Report:
    """The results of `check`. `damage` counts by reason; `damaged` maps places or keys to reasons.

    `samples` were checked, not counting those already lost when the source was indexed (a truncated
    tar, a bad row).
    """

    source: str
    samples: int
    damage: dict[str, int]
    damaged: dict[str, str]
    bad_share: float  # of all samples, lost ones included; compared with --max-bad
    widths: Spread
    heights: Spread
    duplicates: Duplicates  # the same bytes
    alike: Duplicates  # nearly the same pixels, at 9 x 8
    labels: list[Classes]
    captions: Captions
    false_negatives: FalseNegatives
    leakage: Leakage | None
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def check(
    source: Source,
    *,
    val: Source | None = None,
    tokenizer: Tokenizer | None = None,
    batch_size: int = 256,
    size: int = 224,
    workers: Workers = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check every sample of `source`, and compare with those of `val` for leakage.

    `size` is the side in pixels of training images, `workers` the number of processes, or a
    cluster; `progress(done, total)` is called as samples are read.
    """
    total = len(source) + (len(val) if val else 0)
    ticks = Ticks(progress, total)
    facts, *others = look([source, *([val] if val else [])], tokenizer, workers, ticks)
    lost = dict(getattr(source, "damage", {}))
    damaged = {**lost, **facts.bad, **_too_thin(facts, size)}
    exact = groups_of_equal(facts.exact)
    alike = groups_alike(facts)
    return Report(
        source=source.name,
        samples=len(source),
        damage=dict(Counter(damaged.values())),
        damaged=damaged,
        bad_share=len(damaged) / max(1, len(source) + len(lost)),
        widths=Spread.of(facts.widths),
        heights=Spread.of(facts.heights),
        duplicates=_duplicates(exact, facts.image_keys),
        alike=_duplicates(alike, facts.image_keys),
        labels=_classes(source, facts, exact),
        captions=_captions(facts, tokenizer),
        false_negatives=_false_negatives(facts, batch_size),
        leakage=_leakage(facts, *others) if others else None,
        cost=Cost(
            read_ms=1000 * facts.seconds / max(1, len(facts.image_keys)),
            epoch_seconds=facts.seconds / max(1, len(facts.image_keys)) * len(source),
            stored_bytes=facts.stored,
            batch_bytes=batch_size * 3 * size * size,
            similarity_bytes=4 * batch_size**2,
        ),
    )


def _too_thin(facts: Facts, size: int) -> dict[str, str]:
    """The images that exceed the pixel limit once their short side is scaled to `size`, as for
    embedding."""
    preprocess = Preprocess(size=size)
    found = {}
    for key, width, height in zip(facts.image_keys, facts.widths, facts.heights, strict=True):
        try:
            refuse_scaled_bomb((width, height), preprocess.scaled(width, height))
        except BadSample as bad:
            found[key] = bad.reason
    return found


def _duplicates(groups: Sequence[Sequence[int]], keys: Sequence[str]) -> Duplicates:
    return Duplicates(
        images=sum(len(group) - 1 for group in groups),
        groups=[[keys[place] for place in group[:_SHOWN]] for group in groups[:_SHOWN]],
    )


def _classes(source: Source, facts: Facts, exact: Sequence[Sequence[int]]) -> list[Classes]:
    """The classes of each label with class names; `exact` are groups of indices into
    `facts.image_keys`."""
    schema = source.schema()
    of_key = dict(zip(facts.keys, facts.labels, strict=True))
    found = []
    for name in (name for name in schema if name.startswith("labels.") and schema[name].classes):
        label = name.removeprefix("labels.")
        names = schema[name].classes
        numbers = [labels[label] for labels in facts.labels if label in labels]
        groups = []
        for group in exact:
            keys = [facts.image_keys[place] for place in group]
            held = sorted({of_key[key][label] for key in keys} & set(range(len(names))))
            if len(held) > 1:
                groups.append((keys[:_SHOWN], [names[number] for number in held]))
        counts = Counter(numbers)
        found.append(
            Classes(
                label=label,
                counts={each: counts[number] for number, each in enumerate(names)},
                without=sum(not 0 <= number < len(names) for number in numbers),
                images=len(groups),
                twice=groups[:_SHOWN],
            )
        )
    return found


def _captions(facts: Facts, tokenizer: Tokenizer | None) -> Captions:
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


def _false_negatives(facts: Facts, batch: int) -> FalseNegatives:
    n = len(facts.keys)
    batch = min(batch, n)
    shares: dict[int, dict[int, float]] = {}  # caption -> sample -> w
    words: dict[int, str] = {}
    for text, code, at, *_ in facts.captions:
        weights = shares.setdefault(code, {})
        weights[at] = weights.get(at, 0.0) + 1 / facts.counts[at]
        words.setdefault(code, text)
    shared = {code: weights for code, weights in shares.items() if len(weights) > 1}
    pairs = math.fsum(
        sum(w.values()) ** 2 - sum(x * x for x in w.values()) for w in shared.values()
    )
    each = pairs * (batch - 1) / (n * (n - 1)) if n > 1 else 0.0
    most = sorted(shared, key=lambda code: (-len(shared[code]), words[code]))[:_SHOWN]
    return FalseNegatives(
        batch=batch,
        per_sample=each,
        per_batch=each * batch,
        captions=[(words[code], len(shared[code])) for code in most],
    )


def _leakage(train: Facts, val: Facts) -> Leakage:
    captions = {entry[1]: train.keys[entry[2]] for entry in reversed(train.captions)}
    same, alike = shared(train, val)
    near = {key: other for key, other in alike.items() if key not in same}
    reported: dict[str, str] = {}
    for entry in val.captions:
        if entry[1] in captions:
            reported.setdefault(val.keys[entry[2]], captions[entry[1]])
    kinds = (("the same image", same), ("nearly the same image", near), ("the caption", reported))
    return Leakage(
        samples=len(val.keys),
        same_image=len(same),
        alike_image=len(near),
        same_caption=len(reported),
        examples=sorted({*same, *alike})[:_SHOWN] or sorted(reported)[:_SHOWN],
        pairs=[
            (key, other, what)
            for what, found in kinds
            for key, other in sorted(found.items())[:_SHOWN]
        ],
    )
