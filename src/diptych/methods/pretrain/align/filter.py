"""ALIGN's rules for noisy pairs, by frequency alone (Jia et al., 2021): no model, no word list.

The rules apply in this order, as published; a pair is dropped by the first rule that it breaks:

    small         the image's shorter side has at most 200 pixels
    narrow        its longer side is at least 3 times its shorter one
    many-texts    more than 1,000 pairs have this image
    test          the image is one of those that will be tested on, or looks like one (where these are given)
    shared-text   more than 10 images have this text
    rare          a word or two neighbours are not among the 100 million most frequent ones of the corpus
    short, long   fewer than 3 words, more than 20

Counts are those of the whole corpus, before anything is dropped [choice]. Words are the lower-case
parts of a text between white space and punctuation [choice: the paper does not say how it splits].
Words and pairs of words that tie across the limit are all left out, so that the result does not
depend on their order [choice]. `data.check` finds images that look like a test image, by thumbnails
[choice]. The paper also drops pornography, for which there is no rule here. `diptych data filter`
applies the rules to a source; `filtered:FILE` reads the pairs that are kept.

Dimensions: P pairs.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from diptych.data.compact import hash64
from diptych.data.decode import dimensions
from diptych.data.duplicates import shown_elsewhere
from diptych.data.sample import BadSample, EncodedImage, Source
from diptych.data.spans import Workers, over
from diptych.errors import InputError

REASONS = ("small", "narrow", "many-texts", "test", "shared-text", "rare", "short", "long")
_WORD = re.compile(r"\w+(?:'\w+)*")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The limits of the rules; None turns a rule off."""

    shorter_side: int | None = 200  # pixels; must be above
    aspect: float | None = 3.0  # must be below
    texts_per_image: int | None = 1000  # at most
    images_per_text: int | None = 10  # at most
    vocabulary: int | None = 100_000_000  # how many words and pairs of words are frequent
    min_words: int | None = 3
    max_words: int | None = 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value <= 0:
                raise InputError(
                    f"{name} is {value}; give a number above 0, or none to leave the rule out"
                )


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The properties of a pair that the rules read. `image` identifies the image, such as a
    checksum; sizes are in pixels, 0 if unknown."""

    image: str | int
    text: str
    width: int = 0
    height: int = 0
    tested: bool = False  # whether its image is tested on


def grams(text: str) -> Iterator[str]:
    """Yield the words of a text, then each pair of neighbouring words.

    >>> list(grams("A red cat."))
    ['a', 'red', 'cat', 'a red', 'red cat']
    """
    words = _WORD.findall(text.lower())
    yield from words
    for one, two in pairwise(words):
        yield f"{one} {two}"


def frequent(texts: Iterable[str], most: int) -> frozenset[str]:
    """Return the `most` most frequent words and pairs of words, without those that tie across the
    limit.

    >>> sorted(frequent(["a cat", "a cat", "a dog"], 3))
    ['a', 'a cat', 'cat']
    """
    counts = Counter(gram for text in texts for gram in grams(text))
    if len(counts) <= most:
        return frozenset(counts)
    edge = counts.most_common(most + 1)[-1][1]
    return frozenset(gram for gram, count in counts.items() if count > edge)


def broken(pairs: Sequence[Pair], rules: Rules = Rules()) -> np.ndarray:
    """Return the first rule that each pair breaks, as its index in REASONS, or -1: (P,) int8.

    >>> pairs = [Pair(image=at, text=text) for at, text in enumerate(["a red cat", "photo", "a red cat"])]
    >>> [REASONS[reason] if reason >= 0 else "kept" for reason in broken(pairs)]
    ['kept', 'short', 'kept']
    """
    texts = Counter(pair.image for pair in pairs)
    images = Counter(text for _, text in {(pair.image, pair.text) for pair in pairs})
    known = (
        None
        if rules.vocabulary is None
        else frequent((pair.text for pair in pairs), rules.vocabulary)
    )
    return np.array([_first(pair, rules, texts, images, known) for pair in pairs], dtype=np.int8)


def _first(
    pair: Pair,
    rules: Rules,
    texts: Counter[str | int],
    images: Counter[str],
    known: frozenset[str] | None,
) -> int:
    shorter, longer = sorted((pair.width, pair.height))
    words = len(_WORD.findall(pair.text))
    breaks = (
        rules.shorter_side is not None and 0 < shorter <= rules.shorter_side,
        rules.aspect is not None and shorter > 0 and longer >= rules.aspect * shorter,
        rules.texts_per_image is not None and texts[pair.image] > rules.texts_per_image,
        pair.tested,
        rules.images_per_text is not None and images[pair.text] > rules.images_per_text,
        known is not None and any(gram not in known for gram in grams(pair.text)),
        rules.min_words is not None and words < rules.min_words,
        rules.max_words is not None and words > rules.max_words,
    )
    return breaks.index(True) if True in breaks else -1


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """The result of `filtered`, for each pair (P,): the number of its sample, the index of its text
    within the role, and the result of `broken`. `damaged` gives the reasons for samples that cannot
    be read, which have no pair."""

    samples: np.ndarray
    texts: np.ndarray
    reasons: np.ndarray
    damaged: dict[str, str]

    def counts(self) -> dict[str, int]:
        """Return how many pairs each rule drops, in the order of the rules."""
        return {name: int((self.reasons == number).sum()) for number, name in enumerate(REASONS)}


def filtered(
    source: Source,
    rules: Rules = Rules(),
    *,
    role: str = "caption",
    tests: Sequence[Source] = (),
    workers: Workers = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Filtered:
    """Apply the rules to all pairs of an image `main` and a text of `role`.

    `tests` are the sources that will be tested on; images are decoded only if there are any.
    `workers` is the number of processes that read, or a cluster.
    Raises InputError if there is no text of the role.

    >>> from diptych.data.sources import open_source
    >>> found = filtered(open_source("scenes:count=50:noise=junk=0.3"), Rules(shorter_side=None, vocabulary=400))
    >>> found.counts()["rare"] > 10
    True
    """
    missing = f"{source.name} has no text of role {role!r}; name one that it has with --role"
    if f"texts.{role}" not in source.schema():
        raise InputError(missing)
    pairs: list[Pair] = []
    samples = []
    texts = []
    damaged = {}
    keys = source.keys()
    shown = shown_elsewhere(source, tests, workers=workers, progress=progress) if tests else set()
    done = 0
    for _, part in over([source], [partial(_pairs, role)], workers):
        damaged |= part.damaged
        for number, which, image, text, width, height in part.pairs:
            tested = keys[number] in shown
            pairs.append(Pair(image=image, text=text, width=width, height=height, tested=tested))
            samples.append(number)
            texts.append(which)
        done += part.count
        if progress:
            progress(done, len(source))
    if not pairs:
        raise InputError(missing)
    return Filtered(
        samples=np.array(samples, np.int64),
        texts=np.array(texts, np.int32),
        reasons=broken(pairs, rules),
        damaged=damaged,
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of a span of `count` samples: (number of the sample, index of the text, image,
    text, width, height) of each pair, and the reasons for damaged samples."""

    count: int
    pairs: list[tuple[int, int, str | int, str, int, int]]
    damaged: dict[str, str]


def _pairs(role: str, source: Source, span: range) -> _Read:
    read = _Read(len(span), [], {})
    for number in span:
        try:
            sample = source[number]
            image, width, height = _measured(sample.images.get("main"))
        except BadSample as bad:
            read.damaged[source.keys()[number]] = bad.reason
            continue
        for which, text in enumerate(sample.captions(role)):
            read.pairs.append(
                (number, which, number if image is None else image, text, width, height)
            )
    return read


def _measured(image: EncodedImage | None) -> tuple[str | None, int, int]:
    """Return a checksum of the image, its width and its height."""
    if image is None:
        return None, 0, 0
    data = image.read()
    return f"{hash64(data):016x}", *dimensions(data)
