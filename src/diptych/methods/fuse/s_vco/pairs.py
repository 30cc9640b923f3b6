"""Pairs of images that differ by a minimal edit, each with a response that is true of it alone.

A sample and one of its edits are a pair if both have an image, and a text of the same role that
differs: answers to one question, or captions.

Dimensions: M pairs, V images of a pair, L text length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.questions import answered
from diptych.data.sample import BadSample, Sample, Source, Text
from diptych.data.tokenizers import Tokenizer
from diptych.data.views.dialogue import written
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.rng import generator

ANSWER = "answer"
"""The role of responses that answer the sample's questions."""
REFERENCE = "reference"
"""The array of a pair's log-probabilities by the reference."""
CROP = 0.2
"""The largest share of an image that a cropped one shows [choice]."""

Negative = Literal["edit", "noise", "crop"]


@dataclass(frozen=True)
class Responses:
    """A question, None of captions, and the responses to the two images."""

    question: str | None
    chosen: str
    rejected: str


def responses(sample: Sample, edit: Sample, role: str = ANSWER) -> list[Responses]:
    """The responses of a role that differ between a sample and its edit.

    Of the role answer one for each question that both have, else the first text of either. Of several
    answers to a question the first one counts.
    """
    if role != ANSWER:
        pair = [each.captions(role)[:1] for each in (sample, edit)]
        found = [Responses(None, *one, *other) for one, other in [pair] if one and other]
    else:
        theirs = {question.text: answers for question, answers in answered(edit)}
        found = [
            Responses(question.text, answers[0], theirs[question.text][0])
            for question, answers in answered(sample)
            if answers and theirs.get(question.text)
        ]
    return [each for each in found if _plain(each.chosen) != _plain(each.rejected)]


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


class Pairs(Wrapped):
    """A sample for each pair of a source: its image and response, with the other ones as its only edit.

    `kinds` are the kinds of edits that are read (none: all). The texts of a sample are its question, if
    it has one, and its response; an array `REFERENCE` (K, ·) of the source has a row for each of the
    K pairs of a sample. Texts of the source are read once. Damaged samples are left out, and counted in
    `unread`. Raises InputError if there is no pair.
    """

    def __init__(self, source: Source, role: str = ANSWER, kinds: Sequence[str] = ()):
        table = []
        self.unread = 0
        for row in range(len(source)):
            try:
                found = _pairs_of(source[row], role, kinds)
            except BadSample:
                self.unread += 1
                continue
            table += [(row, number, *place) for number, place in enumerate(found)]
        if not table:
            common = " to the same question" if role == ANSWER else ""
            raise InputError(
                f"no sample of {source.name} has an image, and an edit with an image and another text of role {role}"
                f"{common}; name a source with such edits, or make pairs of mirrored images with "
                "`diptych data contrast SOURCE --flips N --out DIR`"
            )
        super().__init__(source, np.array([row for row, *_ in table]))
        self.role = role
        self._table = np.array(table)

    def over(self, source: Source) -> "Pairs":
        """The same pairs of a source that has further fields."""
        found = object.__new__(Pairs)
        found.__dict__.update(self.__dict__)
        found.source = source
        found.name = source.name
        return found

    @property
    def numbers(self) -> np.ndarray:
        """The number (M,) of each pair among those of its sample."""
        return self._table[:, 1]

    @cached_property
    def _keys(self) -> list[str]:
        return [
            f"{key}#{number + 1}"
            for key, number in zip(super().keys(), self.numbers.tolist(), strict=True)
        ]

    def keys(self) -> Sequence[str]:
        """The keys of the samples, each with the number of the pair."""
        return self._keys

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        _, number, at, which = self._table[index].tolist()
        sample = super().__getitem__(index)
        edit = sample.edits[at]
        found = responses(sample, edit, self.role)[which]
        arrays = dict(sample.arrays)
        if REFERENCE in arrays and arrays[REFERENCE].ndim > 1:
            arrays[REFERENCE] = arrays[REFERENCE][number]
        asked = [] if found.question is None else [Text(text=found.question, role="question")]
        return replace(
            sample,
            key=self._keys[index],
            texts=(*asked, Text(text=found.chosen, role=self.role)),
            edits=(replace(edit, texts=(*asked, Text(text=found.rejected, role=self.role))),),
            arrays=arrays,
        )


def _pairs_of(sample: Sample, role: str, kinds: Sequence[str]) -> list[tuple[int, int]]:
    """The numbers of the edit and of its responses, of each pair of a sample."""
    if "main" not in sample.images:
        return []
    return [
        (at, which)
        for at, edit in enumerate(sample.edits)
        if "main" in edit.images and (not kinds or edit.kind in kinds)
        for which in range(len(responses(sample, edit, role)))
    ]


@dataclass(frozen=True, kw_only=True)
class PairView:
    """The images (B, V, 3, H, W) and the responses (B, 2, L) of a pair, as `Pairs` gives it, those of the
    sample first; marks are the tokens of the responses and their ends.

    `prompt` is read before captions, `template` of a question. Texts are cut at `length` ids. With
    another `negative` than edit V is 4: behind the images stands one for each that replaces the other
    one as what its response is wrong of, `noise` or a `crop` of itself, the same in every epoch.
    """

    preprocess: Preprocess
    tokenizer: Tokenizer
    length: int
    role: str = ANSWER
    prompt: str = ""
    template: str = "{}"
    negative: Negative = "edit"
    gives = ("images.main", "texts.main")

    @property
    def reads(self) -> tuple[str, ...]:
        asked = ("texts.question",) if self.role == ANSWER else ()
        return "images.main", "edits", *asked, f"texts.{self.role}"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        [edit] = sample.edits
        images = [self.preprocess.read(each.images["main"]) for each in (sample, edit)]
        if self.negative != "edit":
            images += [
                damaged(image, self.negative, generator(0, self.negative, sample.key, at))
                for at, image in enumerate(images)
            ]
        texts = []
        for each in (sample, edit):
            *question, response = [text.text for text in each.texts]
            asked = self.template.replace("{}", question[0]) if question else self.prompt
            texts.append(written(self.tokenizer, [(asked, response)], self.length))
        return {"images.main": torch.stack(images), "texts.main": texts}


def damaged(image: Tensor, how: Negative, rng: np.random.Generator) -> Tensor:
    """Noise in place of an image (3, H, W), or a small part of it at its size: uint8.

    >>> damaged(torch.full((3, 8, 8), 9, dtype=torch.uint8), "crop", np.random.default_rng(0)).unique()
    tensor([9], dtype=torch.uint8)
    """
    if how == "noise":
        return torch.from_numpy(rng.integers(0, 256, tuple(image.shape), dtype=np.uint8))
    height, width = image.shape[1:]
    side = math.sqrt(CROP * rng.uniform(0.1, 1))
    high, wide = (max(1, round(side * each)) for each in (height, width))
    top = int(rng.integers(height - high + 1))
    left = int(rng.integers(width - wide + 1))
    part = image[None, :, top : top + high, left : left + wide].float()
    whole = F.interpolate(part, (height, width), mode="bilinear", align_corners=False)[0]
    return whole.round().clamp(0, 255).to(torch.uint8)
