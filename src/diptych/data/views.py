"""Views: how one sample becomes the named values of a batch. Crops, caption choice, corruption and the like are views.

A view is a callable with `reads` (fields of the sample) and `gives` (fields of the batch). All its random choices come
from the generator that it is handed, which is a function of (seed, epoch, position, view): never of worker, rank or
batch size. It is told how much of training is done, so that what it does can grow harder. `collate` stacks what the
views gave.

Dimensions: B samples, V views, C captions, L text length, H x W pixels.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from diptych.data.batch import Batch, Images, Tokens
from diptych.data.eda import synonyms, varied, without_stop_words
from diptych.data.pictures import Preprocess
from diptych.data.sample import BadSample, Sample
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.errors import InputError
from diptych.rng import generator


class View(Protocol):
    """`view(sample, rng, progress)` gives {"images.NAME": uint8 (V, 3, H, W)}, {"texts.NAME": C lists of ids} or
    {"fields.NAME": a number or tensor}. `progress` is the share of training that is done, None outside training.
    Where a view has the attribute `like`, it names what another view of the list gives, whose random choices it makes
    again."""

    @property
    def reads(self) -> tuple[str, ...]: ...

    @property
    def gives(self) -> tuple[str, ...]: ...

    def __call__(self, sample: Sample, rng: np.random.Generator, progress: float | None) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How a training picture is varied, all at once and before it is resized.

    `crop` is the share of the picture's area that a random crop keeps, `ratio` the crop's aspect (log-uniform); `flip`
    mirrors half of the pictures. A picture with transparency is not cropped but placed: shrunk by 1/s, s uniform in
    [1, `place`], wholly inside at a uniform place, turned by up to `turn` degrees, on a ground of one random colour.
    `colour` c varies brightness and contrast by factors in 1 ± c, saturation in 1 ± 2c; (b, c, s, h) says each of them
    and the turn of the hue, of 1 for a whole turn, in ± h; a share `recoloured` of the pictures is so varied. A share
    `grey` loses its colour, a share `blur` is blurred with sigma in 0.1 … 2 pixels of a picture of 224. All of this
    grows from nothing to full strength between the shares `ramp` of training.
    """

    crop: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: bool = False
    place: float = 1.8
    turn: float = 0.0
    colour: float | tuple[float, float, float, float] = 0.0
    recoloured: float = 1.0
    grey: float = 0.0
    blur: float = 0.0
    ramp: tuple[float, float] = (0.0, 0.0)

    @property
    def colours(self) -> tuple[float, float, float, float]:
        """How far brightness, contrast, saturation and hue vary."""
        return self.colour if isinstance(self.colour, tuple) else (self.colour, self.colour, 2 * self.colour, 0.0)

    def strength(self, progress: float) -> float:
        """0 before the ramp, 1 after it."""
        start, end = self.ramp
        return float(np.clip((progress - start) / (end - start), 0, 1)) if end > start else float(progress >= end)


def place(
    tile: Image.Image, size: int, shrink: float, at: tuple[float, float], ground: tuple[int, int, int]
) -> Image.Image:
    """Paste an RGBA tile, shrunk by 1/`shrink`, wholly inside a `size` x `size` canvas of one colour.

    `at` says where: (0, 0) top left, (1, 1) bottom right.

    >>> place(Image.new("RGBA", (8, 8), (255, 0, 0, 255)), 16, 2.0, (1.0, 1.0), (0, 0, 0)).getpixel((15, 15))
    (255, 0, 0)
    """
    side = max(1, round(size / shrink))
    height, width = round(side * tile.height / max(tile.size)), round(side * tile.width / max(tile.size))
    small = tile.resize((max(width, 1), max(height, 1)), Image.Resampling.BILINEAR, reducing_gap=2.0)
    canvas = Image.new("RGB", (size, size), ground)
    corner = (round(at[0] * (size - small.width)), round(at[1] * (size - small.height)))
    canvas.paste(small, corner, small.getchannel("A"))
    return canvas


@dataclass(frozen=True, kw_only=True)
class PictureView:
    """One picture of a role, augmented in training, as `count` views (B, V, 3, H, W).

    With `like` and the same augmentation these are the crops and colours of another view, at a size of their own.
    """

    preprocess: Preprocess
    name: str = "main"
    role: str = "main"
    augment: Augment = Augment()
    count: int = 1
    like: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"images.{self.role}",)

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"images.{self.name}",)

    def __call__(self, sample: Sample, rng: np.random.Generator, progress: float | None) -> dict[str, Any]:
        picture = sample.images.get(self.role)
        if picture is None:
            raise BadSample("no-picture", f"no picture of role {self.role!r}")
        image = picture.decode(self._least(progress))
        if progress is None:
            views = [self.preprocess(image, exact=False)] * self.count
        else:
            views = [self._vary(image, rng, self.augment.strength(progress)) for _ in range(self.count)]
        return {f"images.{self.name}": torch.stack(views)}

    def _least(self, progress: float | None) -> int | None:
        """The pixels that the picture's short side must keep so that the smallest crop still has the target's size."""
        if progress is None:
            return self.preprocess.least()
        augment, strength = self.augment, self.augment.strength(progress)
        area = 1 + (min(augment.crop) - 1) * strength
        stretch = max(max(augment.ratio), 1 / min(augment.ratio)) ** strength
        return math.ceil(self.preprocess.size * math.sqrt(stretch / area))

    def _vary(self, image: Image.Image, rng: np.random.Generator, strength: float) -> Tensor:
        size, augment = self.preprocess.size, self.augment
        if image.mode == "RGBA":
            shrink, x, y = 1 + (augment.place - 1) * strength * rng.uniform(), rng.uniform(), rng.uniform()
            colour = rng.integers(0, 256, 3)
            ground = tuple(int(255 + (value - 255) * strength) for value in colour)
            if augment.turn:
                angle = augment.turn * strength * rng.uniform(-1, 1)
                image = image.rotate(angle, Image.Resampling.BILINEAR)
            image = place(image, size, shrink, (x, y), ground)  # type: ignore[arg-type]
        else:
            box = _crop_box(image.size, augment, strength, rng)
            image = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
        if augment.flip and rng.uniform() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.array(image)
        if augment.colour and (augment.recoloured == 1 or rng.uniform() < augment.recoloured):
            pixels = _recolour(pixels, augment.colours, strength, rng)
        if augment.grey and rng.uniform() < augment.grey * strength:
            pixels = np.repeat(np.rint(_grey(pixels)).astype(np.uint8), 3, axis=2)
        if augment.blur and rng.uniform() < augment.blur * strength:
            sigma = rng.uniform(0.1, 2.0) * size / 224
            pixels = np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _grey(pixels: np.ndarray) -> np.ndarray:
    """The luma of each pixel (H, W, 1) by the weights of ITU-R 601."""
    return pixels @ np.array([[0.299], [0.587], [0.114]], np.float32)


def _recolour(
    pixels: np.ndarray, most: tuple[float, float, float, float], strength: float, rng: np.random.Generator
) -> np.ndarray:
    """Hue, brightness, contrast about the mean, saturation about each pixel's grey: (H, W, 3) uint8 to the same."""
    *factors, hue = most
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3) * factors
    if hue:
        by_hue = np.array(Image.fromarray(pixels).convert("HSV"))
        by_hue[..., 0] += np.uint8(round(255 * hue * strength * rng.uniform(-1, 1)) % 256)  # a circle of 256
        pixels = np.array(Image.fromarray(by_hue, "HSV").convert("RGB"))
    values = pixels.astype(np.float32) * brightness
    mean = values.mean()
    values = (values - mean) * contrast + mean
    grey = values.mean(axis=2, keepdims=True)
    return np.clip((values - grey) * saturation + grey, 0, 255).astype(np.uint8)


def _crop_box(
    size: tuple[int, int], augment: Augment, strength: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A crop of random area and aspect, cut to the picture where it would not fit."""
    width, height = size
    area = width * height * (1 + (rng.uniform(*augment.crop) - 1) * strength)
    aspect = np.exp(rng.uniform(np.log(augment.ratio[0]), np.log(augment.ratio[1])) * strength)
    w, h = min(width, np.sqrt(area * aspect)), min(height, np.sqrt(area / aspect))
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return float(x), float(y), float(x + w), float(y + h)


_FORM = re.compile(r"(?P<roles>(?:[^=\[\]]|\[[^=\[\]]+=[^=\[\]]*\])+)(?:=(?P<weight>.*))?")


@dataclass(frozen=True, kw_only=True)
class TextView:
    """Texts of a sample as token ids (B, C, L): in training `count` of them drawn at random, else the first.

    `role` is the role of the texts, or a mixture: "caption=0.7,caption+tags=0.3" draws a caption with probability 0.7,
    else a caption and a text of role tags, joined by a comma; "long*" is all texts of role long, in their order, joined
    by blanks; "long[fact=place]" are those whose attribute `fact` is "place". A sample that lacks a role of the drawn
    form takes part with the forms that it can give. Outside training the first form is used. A sample with fewer texts
    than `count` repeats them, or with repeat=False is BadSample("few-captions"). With `like` and the same roles the
    texts are those of another view, by a tokenizer of their own.
    Raises BadSample("no-caption") where a sample can give none.
    """

    tokenizer: Tokenizer
    name: str = "main"
    role: str = "caption"
    count: int = 1
    repeat: bool = True
    like: str | None = None

    @cached_property
    def forms(self) -> list[tuple[tuple[str, ...], float]]:
        """The roles of each form, with its weight."""
        forms = []
        for part in self.role.split(","):
            found = _FORM.fullmatch(part.strip())
            if not found:
                raise InputError(f"role {self.role!r}: {part!r} is no role; write ROLE=WEIGHT,… or ROLE[NAME=VALUE]")
            try:
                forms.append((tuple(found["roles"].split("+")), float(found["weight"] or 1)))
            except ValueError:
                raise InputError(f"role {self.role!r}: {found['weight']!r} is no number; write ROLE=WEIGHT,…") from None
        return forms

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_field(role) for roles, _ in self.forms for role in roles))

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"texts.{self.name}",)

    def __call__(self, sample: Sample, rng: np.random.Generator, progress: float | None) -> dict[str, Any]:
        held = {_bare(role): _texts(sample, _bare(role)) for roles, _ in self.forms for role in roles}
        possible = [
            (roles, weight)
            for roles, weight in self.forms
            if all(len(held[_bare(role)]) >= (1 if _is_whole(role) else roles.count(role)) for role in roles)
        ]
        if not possible:
            raise BadSample("no-caption", f"no text of role {self.role!r}")
        most = max(map(len, held.values()))
        if most < self.count and not self.repeat:
            raise BadSample("few-captions", f"{most} texts of role {self.role!r} for {self.count} views")
        orders = {name: list(texts) for name, texts in held.items()}
        drawn = []
        for number in range(self.count):
            roles = possible[0][0]
            if progress is not None:
                if number % most == 0:  # all texts once before any twice
                    orders = {name: [texts[i] for i in rng.permutation(len(texts))] for name, texts in held.items()}
                weights = np.cumsum([weight for _, weight in possible])
                roles = possible[int(np.searchsorted(weights, rng.uniform(0, weights[-1]), side="right"))][0]
            parts = [" ".join(held[_bare(r)]) if _is_whole(r) else _take(orders[r]) for r in roles]
            drawn.append(self.said(", ".join(parts), rng, progress))
        return {f"texts.{self.name}": self.tokenizer.encode(drawn)}

    def said(self, text: str, rng: np.random.Generator, progress: float | None) -> str:
        """What is made of a text that was drawn: the text."""
        return text


def _is_whole(role: str) -> bool:
    """Whether a part of a form stands for all texts of its role ("long*"; "*" alone is a role, that of any text)."""
    return len(role) > 1 and role.endswith("*")


def _bare(role: str) -> str:
    """A role without the star that asks for all of its texts."""
    return role[:-1] if _is_whole(role) else role


def _field(role: str) -> str:
    """The field of a source that a role is read from.

    >>> _field("caption"), _field("long*"), _field("long[fact=place]"), _field("*")
    ('texts.caption', 'texts.long', 'texts.long', 'texts.*')
    """
    return f"texts.{_bare(role).partition('[')[0]}"


def _texts(sample: Sample, role: str) -> list[str]:
    """The texts of a role that say something, only those whose attribute has a value where the role asks for one."""
    name, _, condition = role.removesuffix("]").partition("[")
    attribute, _, value = condition.partition("=")
    return [
        text.text
        for text in sample.texts
        if name in (text.role, "*") and text.text.strip() and (not condition or str(text.attrs.get(attribute)) == value)
    ]


def _take(order: list[str]) -> str:
    """The next text, which goes to the end of the line."""
    text = order.pop(0)
    order.append(text)
    return text


@dataclass(frozen=True, kw_only=True)
class VariedTextView(TextView):
    """Texts as of `TextView`, varied in training by their words (`data.eda`): stop words go with probability
    `stop_words`, and where `strong` one of synonyms, a swap or deletion follows, with the table `synonyms`."""

    stop_words: float = 0.8
    strong: bool = False
    synonyms: str = "none"

    def said(self, text: str, rng: np.random.Generator, progress: float | None) -> str:
        if progress is None:
            return text
        if rng.uniform() < self.stop_words:
            text = without_stop_words(text)
        return varied(text, rng, synonyms(self.synonyms)) if self.strong else text


@dataclass(frozen=True, kw_only=True)
class SentenceView:
    """`count` sentences of a sample's texts as token ids (B, C, L), drawn from all texts of some roles.

    In training none comes twice where there are enough, else they are drawn with repetition; outside it they are the
    first. `merged` sentences that follow each other in a role are joined to one. Raises BadSample("no-caption")
    where there is no sentence.
    """

    tokenizer: Tokenizer
    name: str = "sentences"
    roles: tuple[str, ...] = ("caption", "long")
    count: int = 1
    merged: int = 1

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(f"texts.{role}" for role in self.roles)

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"texts.{self.name}",)

    def __call__(self, sample: Sample, rng: np.random.Generator, progress: float | None) -> dict[str, Any]:
        pool = []
        for role in self.roles:
            said = [part for text in sample.captions(role) for part in sentences(text)]
            last = max(1, len(said) - self.merged + 1)
            pool += [". ".join(said[at : at + self.merged]) for at in range(last) if said]
        if not pool:
            raise BadSample("no-caption", f"no sentence in texts of role {' or '.join(self.roles)}")
        if progress is None:
            rows = np.arange(self.count) % len(pool)
        else:
            rows = rng.choice(len(pool), self.count, replace=len(pool) < self.count)
        return {f"texts.{self.name}": self.tokenizer.encode([pool[row] for row in rows])}


def sentences(text: str) -> list[str]:
    """The sentences of a long caption: what stands between full stops, line breaks and "</s>", without blanks around.

    A full stop inside a number or a word ("3.5", "e.g") parts nothing.

    >>> sentences("A red cat. It sits on a mat.\\n\\nA lamp of 3.5 kg.</s>")
    ['A red cat', 'It sits on a mat', 'A lamp of 3.5 kg']
    """
    parts = (part.strip() for part in _SENTENCE.split(text))
    return [part for part in parts if part]


_SENTENCE = re.compile(r"\.(?!\w)|\n|</s>")


@dataclass(frozen=True, kw_only=True)
class LabelView:
    """A label as a number a sample."""

    label: str
    name: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"labels.{self.label}",)

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"fields.{self.name or self.label}",)

    def __call__(self, sample: Sample, rng: np.random.Generator, progress: float | None) -> dict[str, Any]:
        return {self.gives[0]: sample.labels.get(self.label, -1)}


@dataclass(frozen=True, kw_only=True)
class ArrayView:
    """An array of the sample as one vector (B, `size`) of float32, such as features of another encoder.

    Raises BadSample where there is none, of another size, or with what is not finite.
    """

    array: str
    size: int

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"arrays.{self.array}",)

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"fields.{self.array}",)

    def __call__(self, sample: Sample, rng: np.random.Generator, progress: float | None) -> dict[str, Any]:
        if self.array not in sample.arrays:
            raise BadSample("no-array", f"no array {self.array!r}")
        values = np.asarray(sample.arrays[self.array], np.float32).ravel()
        if len(values) != self.size:
            raise BadSample("array-size", f"array {self.array!r} has {len(values)} numbers, not {self.size}")
        if not np.isfinite(values).all():
            raise BadSample("not-finite", f"array {self.array!r} holds what is no number")
        return {self.gives[0]: torch.from_numpy(values.copy())}


def look(sample: Sample, views: Sequence[View], at: tuple[int, ...], progress: float | None) -> dict[str, Any]:
    """All views of one sample; view number v draws from `generator(*at, v)`, at = (seed, epoch, position), and one that
    is `like` another from that one's."""
    numbers = {name: number for number, view in enumerate(views) for name in view.gives}
    values: dict[str, Any] = {}
    for number, view in enumerate(views):
        like = getattr(view, "like", None)
        values |= view(sample, generator(*at, number if like is None else numbers[like]), progress)
    return values


def collate(keys: Sequence[str], rows: Sequence[dict[str, Any]], tokenizers: dict[str, Tokenizer]) -> Batch:
    """Stack what the views gave for each sample. `tokenizers` names the padding rule of each text."""
    images: dict[str, Images] = {}
    texts: dict[str, Tokens] = {}
    fields: dict[str, Tensor] = {}
    for full in rows[0]:
        kind, name = full.split(".", 1)
        values = [row[full] for row in rows]
        if kind == "images":
            images[name] = Images(torch.stack(values))
        elif kind == "texts":
            ids, lengths = pad_batch([ids for captions in values for ids in captions], tokenizers[name])
            texts[name] = Tokens(ids.unflatten(0, (len(rows), -1)), lengths.unflatten(0, (len(rows), -1)))
        else:
            fields[name] = torch.stack([torch.as_tensor(value) for value in values])
    return Batch(images=images, texts=texts, fields=fields, keys=tuple(keys))
