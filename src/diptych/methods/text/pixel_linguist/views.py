"""Pairs of texts that mean the same, as strips of pixels or as token ids.

Dimensions: B samples, C texts of a sample, P patches, L ids, H x W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from diptych.data.render import Rendered, TextRenderer
from diptych.data.sample import BadSample, Sample
from diptych.data.tokenizers import Tokenizer
from diptych.data.typos import misspell, reordered
from diptych.data.views import sentences
from diptych.methods.text.pixel_linguist.config import Config
from diptych.methods.text.pixel_linguist.model import as_tensors

MOST_MISSING = 0.5
"""A text of which the font lacks a larger share of characters is no example of its language."""
CROP = (0.5, 1.0)  # the share of the area
RATIO = (0.75, 4 / 3)
SIGMA = (0.1, 2.0)


Pair = Callable[[Sample, np.random.Generator], Sequence[str]]
"""The texts of a sample that belong together, the anchor first."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How texts become inputs of the tower: by `renderer`, or by `tokenizer`."""

    renderer: TextRenderer | None = None
    tokenizer: Tokenizer | None = None

    @property
    def gives(self) -> tuple[str, ...]:
        """The fields of a batch with `texts`."""
        return ("texts.main",) if self.renderer is None else ("images.main", "fields.real")

    def read(self, texts: Sequence[str]) -> dict[str, Any]:
        """The texts of a sample as fields of a batch."""
        if self.renderer is None:
            assert self.tokenizer is not None, "texts are read as pixels or as tokens"
            return {"texts.main": self.tokenizer.encode(texts)}
        return self.strips([drawn(self.renderer, text) for text in texts])

    def strips(self, found: Sequence[Rendered]) -> dict[str, Any]:
        """Rendered texts as fields of a batch."""
        assert self.renderer is not None
        pixels, real = as_tensors(found, self.renderer.patches)
        return {"images.main": pixels.contiguous(), "fields.real": real}


def drawn(renderer: TextRenderer, text: str) -> Rendered:
    """A rendered text. Raises BadSample("no-glyph") if the font lacks most of its characters."""
    found = renderer.render(text)
    if len(found.missing) > MOST_MISSING * len(text.strip()):
        raise BadSample(
            "no-glyph", f"the font {renderer.font} lacks most characters of {text[:40]!r}"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class PairView:
    """The texts of `pair` (C of them) as a tower reads them: strips images.main (B, C, 3, H, W) with
    the patches fields.real (B, C, P) that are real, or ids texts.main (B, C, L).

    `altered` changes the pixels of the second strip.
    """

    reader: Reader
    pair: Pair
    reads: tuple[str, ...]
    altered: Callable[[np.ndarray, int, np.random.Generator], np.ndarray] | None = None

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer whose rule pads the texts."""
        return self.reader.tokenizer

    @property
    def gives(self) -> tuple[str, ...]:
        return self.reader.gives

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        texts = self.pair(sample, rng)
        renderer = self.reader.renderer
        if self.altered is None or renderer is None:
            return self.reader.read(texts)
        found = drawn(renderer, texts[0])
        pixels = self.altered(found.pixels, found.patches * renderer.patch, rng)
        other = Rendered(pixels, found.patches, found.cut, found.missing)
        return self.reader.strips([found, other])


def text_of(sample: Sample, role: str, rng: np.random.Generator) -> str:
    """One of the texts of a role. Raises BadSample("no-caption") if there is none."""
    found = [text for text in sample.captions(role) if text.strip()]
    if not found:
        raise BadSample("no-caption", f"no text of role {role!r}")
    return found[int(rng.integers(len(found)))]


# ---- pairs


def noisy(config: Config, branch: str) -> Pair:
    """A text, and the same with the noise of a branch: typos, words in any order, words moved a
    little (in windows of three, or two neighbours, with equal odds), or typos and one of these; of a
    branch of pixels, the same text."""
    kinds = config.typos.split("+")

    def other(text: str, rng: np.random.Generator) -> str:
        if branch in ("shuffle", "window", "mixed"):
            near = branch == "window" or (branch == "mixed" and rng.random() < 0.5)
            reach = ("window" if rng.random() < 0.5 else "pair") if near else "all"
            text = " ".join(reordered(text.split(), reach, rng))
        if branch in ("typos", "mixed"):
            text = misspell(text, kinds, config.typo_rate, rng, min_typos=0)
        return text

    def pair(sample: Sample, rng: np.random.Generator) -> Sequence[str]:
        text = text_of(sample, config.role, rng)
        return text, other(text, rng)

    return pair


def spans(role: str) -> Pair:
    """Two different sentences of a text, or the halves of a single one."""

    def pair(sample: Sample, rng: np.random.Generator) -> Sequence[str]:
        text = text_of(sample, role, rng)
        said = sentences(text)
        if len(said) >= 2:
            first, second = rng.choice(len(said), 2, replace=False)
            return said[first], said[second]
        words = text.split()
        if len(words) < 2:
            raise BadSample("one-word", f"{text!r} has no two spans")
        middle = len(words) // 2
        return " ".join(words[:middle]), " ".join(words[middle:])

    return pair


def roles(first: str, *others: str) -> Pair:
    """A text of a role, and one of each of the others."""

    def pair(sample: Sample, rng: np.random.Generator) -> Sequence[str]:
        return [text_of(sample, role, rng) for role in (first, *others)]

    return pair


def translated(role: str, languages: Sequence[str]) -> Pair:
    """A text, and its translation into one of the languages that a sample has."""

    def pair(sample: Sample, rng: np.random.Generator) -> Sequence[str]:
        text = text_of(sample, role, rng)
        there = [name for name in languages if any(map(str.strip, sample.captions(name)))]
        if not there:
            raise BadSample("no-caption", f"no text of role {' or '.join(languages)}")
        return text, text_of(sample, there[int(rng.integers(len(there)))], rng)

    return pair


# ---- pixels


def cropped(pixels: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """The text of a strip (H, W), which is `width` pixels wide, cut at random and scaled to its size
    (torchvision's RandomResizedCrop)."""
    height = len(pixels)
    area = rng.uniform(*CROP) * width * height
    aspect = np.exp(rng.uniform(*np.log(RATIO))) * width / height
    across = min(float(width), np.sqrt(area * aspect))
    along = min(float(height), np.sqrt(area / aspect))
    x = rng.uniform(0, width - across)
    y = rng.uniform(0, height - along)
    text = Image.fromarray(pixels[:, :width])
    scaled = text.resize(
        (width, height), Image.Resampling.BILINEAR, box=(x, y, x + across, y + along)
    )
    return _with_text(pixels, np.array(scaled))


def flipped(pixels: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """The text of a strip, mirrored."""
    return _with_text(pixels, pixels[:, :width][:, ::-1])


def blurred(pixels: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """The text of a strip, blurred by a Gaussian of random width."""
    text = Image.fromarray(pixels[:, :width])
    blur = ImageFilter.GaussianBlur(rng.uniform(*SIGMA))
    return _with_text(pixels, np.array(text.filter(blur)))


def _with_text(pixels: np.ndarray, text: np.ndarray) -> np.ndarray:
    """A strip with another text before its black patch."""
    found = pixels.copy()
    found[:, : text.shape[1]] = text
    return found


ALTERED: Mapping[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "crop": cropped,
    "flip": flipped,
    "blur": blurred,
}


# ---- hidden patches


@dataclass(frozen=True, kw_only=True)
class HiddenTextView:
    """A strip images.main (B, 1, 3, H, W), its real patches fields.real (B, 1, P), and those to hide,
    fields.hidden (B, P).

    A share `share` of the real patches, rounded up, is hidden in spans (Rust et al. 2023: of 1 to 6
    patches, the longer the rarer). Empty patches at the end, which nothing attends to, are added, so
    that each sample hides equally many.
    """

    reader: Reader
    role: str
    share: float

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"texts.{self.role}",)

    @property
    def gives(self) -> tuple[str, ...]:
        return (*self.reader.gives, "fields.hidden")

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        found = self.reader.read([text_of(sample, self.role, rng)])
        real = int(found["fields.real"].sum())
        patches = found["fields.real"].shape[-1]
        hidden = np.zeros(patches, bool)
        hidden[hidden_spans(real, int(np.ceil(self.share * real)), rng)] = True
        rest = int(np.ceil(self.share * patches)) - int(hidden.sum())
        hidden[patches - rest :] = True
        return {**found, "fields.hidden": torch.from_numpy(hidden)}


_SPANS = (0.2, 0.2, 0.2, 0.2, 0.1, 0.1)  # the odds of spans of 1 to 6 patches


def hidden_spans(places: int, count: int, rng: np.random.Generator) -> list[int]:
    """`count` of `places`, in spans at random; the last is cut to the number.

    >>> sorted(hidden_spans(12, 4, np.random.default_rng(2)))
    [1, 2, 3, 4]
    """
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        length = 1 + int(rng.choice(len(_SPANS), p=_SPANS))
        start = int(rng.integers(places))
        chosen |= dict.fromkeys(range(start, min(places, start + length)))
    return list(chosen)[:count]
