"""Views, which turn one sample into named values of a batch: crops, caption choice, corruption and
the like. Views of images and of texts have their own modules.

A view is a callable with `reads` (fields of the sample) and `gives` (fields of the batch). All its
random choices come from the generator passed to it, which depends on (seed, epoch, position, view)
and never on worker, rank or batch size. It also receives the progress of training, so that an
augmentation can grow stronger. `collate` stacks the values of the views.

Dimensions: B samples, V views, C captions, L text length, R rows, H x W pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from diptych.data.batch import Batch, Images, Tokens
from diptych.data.sample import BadSample, Sample, real_label
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.data.views.dialogue import DialogueView, PromptedView
from diptych.data.views.edits import EditsView
from diptych.data.views.images import Augment, HiddenView, ImageView, augmentation, place
from diptych.data.views.masked import Masked, MaskedTextView, SpanView
from diptych.data.views.noise import NoiseView
from diptych.data.views.regions import BoxView, RegionView
from diptych.data.views.texts import SentenceView, TextView, VariedTextView, sentences
from diptych.errors import InputError
from diptych.rng import generator

__all__ = [
    "ArrayView",
    "Augment",
    "BoxView",
    "DialogueView",
    "EditsView",
    "HiddenView",
    "ImageView",
    "LabelView",
    "Masked",
    "MaskedTextView",
    "NoiseView",
    "PromptedView",
    "RegionView",
    "SentenceView",
    "SpanView",
    "TextView",
    "VariedTextView",
    "View",
    "augmentation",
    "collate",
    "look",
    "place",
    "sentences",
]  # fmt: skip


class View(Protocol):
    """A callable from a sample to named values of a batch.

    `view(sample, rng, progress)` returns {"images.NAME": uint8 (V, 3, H, W)}, {"texts.NAME": C
    lists of ids, or of `Masked` ones} or {"fields.NAME": a number or tensor}. A field has the same
    shape for all samples: rows of varying number (regions, edits) are filled up to a fixed number R,
    and a field NAME.there (R,) says which are real. `progress` is the share of training that is
    done, None outside training. The optional attribute `like` names a value of another view, whose
    random choices this view repeats; `optional` are fields of `reads` that single samples may lack.
    """

    @property
    def reads(self) -> tuple[str, ...]: ...

    @property
    def gives(self) -> tuple[str, ...]: ...

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class LabelView:
    """A label as one number per sample: an integer, -1 if missing, or with `real` a float32, NaN if
    missing.

    A label is missing if the sample has none, and if it is the integer -1 or NaN. If `needed`, this
    raises BadSample("no-label").
    """

    label: str
    name: str = ""
    needed: bool = False
    real: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"labels.{self.label}",)

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"fields.{self.name or self.label}",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        number = real_label(sample, self.label)
        if self.needed and math.isnan(number):
            raise BadSample("no-label", f"no label {self.label!r}")
        if self.real:
            return {self.gives[0]: torch.tensor(number, dtype=torch.float32)}
        return {self.gives[0]: -1 if math.isnan(number) else sample.labels[self.label]}


@dataclass(frozen=True, kw_only=True)
class ArrayView:
    """An array of the sample as a float32 field (B, *`shape`), such as features of another encoder.

    An array of another shape but as many numbers is reshaped; without `shape` it is taken as it is.
    Raises BadSample if the array is missing, has another size or is not finite.
    """

    array: str
    shape: tuple[int, ...] | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"arrays.{self.array}",)

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"fields.{self.array}",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        if self.array not in sample.arrays:
            raise BadSample("no-array", f"no array {self.array!r}")
        values = np.asarray(sample.arrays[self.array])
        shape = values.shape if self.shape is None else self.shape
        if values.size != math.prod(shape):
            raise BadSample(
                "array-size",
                f"array {self.array!r} has {values.size} numbers, not {math.prod(shape)}",
            )
        if not np.isfinite(values).all():
            raise BadSample("not-finite", f"array {self.array!r} holds what is no number")
        return {self.gives[0]: torch.from_numpy(values.reshape(shape).astype(np.float32))}


def look(
    sample: Sample, views: Sequence[View], at: tuple[int, ...], progress: float | None
) -> dict[str, Any]:
    """Apply all views to one sample.

    View number v uses `generator(*at, v)`, where at = (seed, epoch, position). A view that is
    `like` another uses the generator of that view.
    """
    numbers = {name: number for number, view in enumerate(views) for name in view.gives}
    values: dict[str, Any] = {}
    for number, view in enumerate(views):
        like = getattr(view, "like", None)
        values |= view(sample, generator(*at, number if like is None else numbers[like]), progress)
    return values


def collate(
    keys: Sequence[str], rows: Sequence[dict[str, Any]], tokenizers: dict[str, Tokenizer]
) -> Batch:
    """Stack the views' values of each sample. `tokenizers` provides the padding rule of each text.
    Fields that are not whole numbers are of torch's default type, as the weights are.

    Raises InputError if a value differs in shape between samples.
    """
    images: dict[str, Images] = {}
    texts: dict[str, Tokens] = {}
    fields: dict[str, Tensor] = {}
    for full in rows[0]:
        kind, name = full.split(".", 1)
        values = [row[full] for row in rows]
        if kind == "images":
            images[name] = Images(_stacked(full, values))
        elif kind == "texts":
            texts[name] = _padded(full, values, tokenizers[name])
        else:
            stacked = _stacked(full, [torch.as_tensor(value) for value in values])
            whole = not stacked.is_floating_point()
            fields[name] = stacked if whole else stacked.to(torch.get_default_dtype())
    return Batch(images=images, texts=texts, fields=fields, keys=tuple(keys))


def _stacked(name: str, values: Sequence[Tensor]) -> Tensor:
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        one, other, *_ = sorted(shapes)
        raise InputError(
            f"{name} is {one} of one sample and {other} of another; a view fills rows up to a fixed number"
        )
    return torch.stack(list(values))


def _padded(name: str, values: Sequence[Sequence[Any]], tokenizer: Tokenizer) -> Tokens:
    """Pad the captions of all samples, and the marks of masked ones with -1."""
    if len({len(captions) for captions in values}) > 1:
        raise InputError(
            f"samples have different numbers of {name}; a view fills texts up to a fixed number"
        )
    flat = [caption for captions in values for caption in captions]
    shape = (len(values), -1)
    masked = [caption for caption in flat if isinstance(caption, Masked)]
    ids, lengths = pad_batch(
        [caption.ids if isinstance(caption, Masked) else caption for caption in flat],
        tokenizer,
        whole=bool(masked),
    )
    marks = None
    if masked:
        assert len(masked) == len(flat)
        marks = torch.full_like(ids, -1)
        for row, caption in zip(marks, masked, strict=True):
            row[: len(caption.marks)] = torch.tensor(caption.marks[: len(row)])
        marks = marks.unflatten(0, shape)
    return Tokens(ids.unflatten(0, shape), lengths.unflatten(0, shape), marks)
