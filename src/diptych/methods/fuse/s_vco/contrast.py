"""Data for S-VCO: pairs of a source that are similar in meaning and differ in detail, mirrored images, and
texts as questions with answers.

    kept if   cos(i_w, i_l) > above  by a model of images and texts (similar)
       and    cos(i_w, i_l) < below  by a model of images alone (differs)

A flip is a sample whose text says left or right, with its mirrored image and the other word. Flips are
not compared by models; as many are drawn of each category. A writer may turn the two texts of a pair
into a question with two answers, in one step or several.

Dimensions: M pairs.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diptych.data.answers import Question, Writer, describe, lines
from diptych.data.png import png_of
from diptych.data.prefetch import ahead
from diptych.data.questions import answered
from diptych.data.sample import BadSample, EncodedImage, Sample, Source, Text, labels_of
from diptych.data.sources import Concat, mvc
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.methods.abilities import require
from diptych.methods.fuse.s_vco.pairs import ANSWER, Pairs
from diptych.rng import generator

ABOVE = 0.7
BELOW = 0.5
"""The published limits of the two cosines."""
FLIP = "flip"
ANSWERS = "contrast.answers.jsonl"
"""The cache of a writer's answers, beside the folder of the pairs."""
STEP = "---"
"""The line between the prompts of two steps."""
PROMPT = """Two images differ in one detail.
The first image: {chosen}
The second image: {rejected}
Ask one question about that detail, which both images answer differently. Write three lines: the question, \
the answer of the first image, and the answer of the second image.
---
Question: {question}
First answer: {chosen}
Second answer: {rejected}
Say the same in another way: ask otherwise, and answer in whole sentences. Write three lines: the question, \
the first answer, and the second answer."""
"""What a writer is asked, in two steps (ours)."""

Progress = Callable[[int, int], None]


@dataclass(kw_only=True)
class Found:
    """What `contrast` wrote: `pairs` of the source, `flips`, how many were `written`, and why others were
    left out."""

    pairs: int = 0
    flips: int = 0
    written: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def contrast(
    source: Source,
    out: Path,
    *,
    role: str = ANSWER,
    kinds: Sequence[str] = (),
    similar: Any = None,
    differs: Any = None,
    above: float = ABOVE,
    below: float = BELOW,
    flips: int = 0,
    category: str | None = None,
    writer: Writer | None = None,
    prompt: str = PROMPT,
    tries: int = 3,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Found:
    """Write the pairs of a source in the form of MVC into the folder `out`.

    `role` and `kinds` say which pairs there are, as in `Pairs`. `similar` and `differs` are models that
    embed images, both or none. Of each value of the label `category` (None: of all samples) at most
    `flips` flips are added. A `writer` is asked the steps of `prompt`, each at most `tries` times.
    Raises InputError if nothing is left, and for a folder that holds other files.
    """
    if (similar is None) != (differs is None):
        raise InputError("pairs are compared by two models; give both, or none")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds other files; give an empty folder")
    found = Found()
    parts: list[Source] = []
    try:
        pairs = Pairs(source, role, kinds)
    except InputError:
        if not flips:  # which need no edits
            raise
    else:
        found.pairs = len(pairs)
        kept = np.arange(len(pairs))
        if similar is not None:
            kept = _kept(pairs, (similar, above), (differs, below), found.dropped, progress)
        if len(kept):
            parts.append(Wrapped(pairs, kept))
    if flips:
        mirrored = Flips(source, role, flips, category, seed)
        found.flips = len(mirrored)
        if len(mirrored):
            parts.append(mirrored)
    if not parts:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in found.dropped.items())
        raise InputError(
            f"no pair of {source.name} is left ({reasons or 'no flips'}); loosen the limits"
        )
    chosen: Source = Concat(parts)
    if writer is not None:
        steps = [part.strip() for part in re.split(rf"(?m)^{STEP}\s*$", prompt)]
        cache = out.parent / f"{out.name}.{ANSWERS}"
        chosen = _asked(chosen, writer, steps, cache, tries, found.dropped, progress)
    found.written = mvc.write(chosen, out, progress=progress)
    return found


# ---- two models


def _kept(
    pairs: Pairs,
    similar: tuple[Any, float],
    differs: tuple[Any, float],
    dropped: Counter[str],
    progress: Progress,
) -> np.ndarray:
    """The numbers of the pairs that both models keep; the others are counted by reason."""
    alike = cosines(similar[0], pairs, progress=progress)
    near = cosines(differs[0], pairs, progress=progress)
    unread = np.isnan(alike) | np.isnan(near)
    other = ~unread & ~(alike > similar[1])
    same = ~unread & ~other & ~(near < differs[1])
    for reason, rows in (("unread image", unread), ("not similar", other), ("no detail", same)):
        if rows.any():
            dropped[reason] += int(rows.sum())
    return np.flatnonzero(~(unread | other | same))


def cosines(
    model: Any,
    pairs: Source,
    *,
    batch_size: int = 64,
    progress: Progress = lambda done, total: None,
) -> np.ndarray:
    """The cosine (M,) of the two images of each pair, NaN where one cannot be read."""
    for ability in ("preprocess", "embed_images"):
        require(model, ability, "diptych data contrast", model.name)
    read: Any = model.preprocess.read

    def images(index: int) -> Tensor:
        sample = pairs[index]
        return torch.stack([read(each.images["main"]) for each in (sample, *sample.edits)])

    found = np.full(len(pairs), np.nan)
    at = 0
    for batch in ahead(images, range(len(pairs)), batch_size):
        there = [row for row, made in enumerate(batch) if isinstance(made, Tensor)]
        if there:
            pixels = torch.cat([made for made in batch if isinstance(made, Tensor)])
            vectors = torch.as_tensor(model.embed_images(pixels, batch_size=batch_size)).float()
            found[[at + row for row in there]] = (vectors[::2] * vectors[1::2]).sum(1).numpy()
        at += len(batch)
        progress(at, len(pairs))
    return found


# ---- flips


@dataclass(frozen=True)
class Mirrored:
    """An image with left and right exchanged."""

    image: EncodedImage

    def decode(self, at_least: int | None = None) -> Image.Image:
        return self.image.decode(at_least).transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    def read(self) -> bytes:
        return png_of(self.decode())


def exchanged(text: str) -> str:
    """A text with left and right exchanged.

    >>> exchanged("Left of the upright lamp, a cat on the right-hand side")
    'Right of the upright lamp, a cat on the left-hand side'
    """

    def other(match: re.Match[str]) -> str:
        word = match.group()
        return _case({"left": "right", "right": "left"}[word.lower()], word)

    return re.sub(r"\b(?:left|right)\b", other, text, flags=re.IGNORECASE)


def _case(word: str, like: str) -> str:
    return word.upper() if like.isupper() else word.capitalize() if like[0].isupper() else word


class Flips(Wrapped):
    """Samples whose response changes when left and right are exchanged, each with its mirrored image as its
    only edit: at most `count` of each value of a label, or of all, drawn by the seed.

    Of the role answer, the response is the first such answer, whose question does not speak of sides.
    """

    def __init__(self, source: Source, role: str, count: int, category: str | None, seed: int):
        values = np.zeros(len(source)) if category is None else labels_of(source, category)
        left: Counter[Any] = Counter()
        rows = []
        for row in generator(seed, FLIP).permutation(len(source)).tolist():
            value = values[row].item()
            if left[value] == count:
                continue
            try:
                there = _sided(source[row], role)
            except BadSample:
                continue
            if there is not None:
                left[value] += 1
                rows.append(row)
        super().__init__(source, np.sort(np.array(rows, np.int64)))
        self.role = role

    def keys(self) -> Sequence[str]:
        """The keys of the samples."""
        keys = super().keys()
        return [f"{key}#{FLIP}" for key in keys]

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        texts = _sided(sample, self.role)
        assert texts is not None, "it was chosen for them"
        *asked, response = texts
        edit = Sample(
            key=f"{sample.key}/{FLIP}",
            source=sample.source,
            images={"main": Mirrored(sample.images["main"])},
            texts=(*asked, replace(response, text=exchanged(response.text))),
            kind=FLIP,
        )
        return replace(sample, key=f"{sample.key}#{FLIP}", texts=tuple(texts), edits=(edit,))


def _sided(sample: Sample, role: str) -> list[Text] | None:
    """The question, if there is one, and the response of a sample that speak of a side; None without."""
    if "main" not in sample.images:
        return None
    if role != ANSWER:
        found = [text for text in sample.captions(role)[:1] if exchanged(text) != text]
        return [Text(text=found[0], role=role)] if found else None
    for question, answers in answered(sample):
        asked = question.text
        if answers and exchanged(answers[0]) != answers[0] and exchanged(asked) == asked:
            return [Text(text=asked, role="question"), Text(text=answers[0], role=ANSWER)]
    return None


# ---- questions


class Asked(Wrapped):
    """Pairs with the question and the responses that were written for them, by key; pairs without are
    left out."""

    def __init__(self, source: Source, texts: Mapping[str, Sequence[str]]):
        keys = source.keys()
        super().__init__(source, np.array([at for at, key in enumerate(keys) if key in texts]))
        self.texts = texts

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        question, *said = self.texts[sample.key]
        both = [
            (Text(text=question, role="question"), Text(text=response, role=ANSWER))
            for response in said
        ]
        [edit] = sample.edits
        return replace(sample, texts=both[0], edits=(replace(edit, texts=both[1]),))


def _asked(
    pairs: Source,
    writer: Writer,
    steps: Sequence[str],
    cache: Path,
    tries: int,
    dropped: Counter[str],
    progress: Progress,
) -> Source:
    """The pairs as a writer puts them, step after step; those that it cannot are counted."""
    texts = {}
    for key, sample in zip(pairs.keys(), map(pairs.__getitem__, range(len(pairs))), strict=True):
        [edit] = sample.edits
        question = (sample.captions("question") or [""])[0]
        texts[key] = (question, sample.texts[-1].text, edit.texts[-1].text)
    for step in steps:
        questions = [Question(key=key, prompt=_filled(step, own)) for key, own in texts.items()]
        told = describe(
            questions, writer, cache, read=_turn, each=1, tries=tries, progress=progress
        )
        if told.lacking:
            dropped["no question"] += len(told.lacking)
        texts = {key: tuple(own[0].split("\n")) for key, own in told.texts.items()}
        if not texts:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in told.invalid.items())
            raise InputError(
                f"no answer of {writer.name} has a question and two different answers, each on its line "
                f"({reasons}); change the prompt"
            )
    return Asked(pairs, texts)


def _filled(prompt: str, texts: Sequence[str]) -> str:
    """A prompt with the question and the responses in their places.

    Raises InputError for one that lacks a response.
    """
    names = ("{question}", "{chosen}", "{rejected}")
    for name in names[1:]:
        if name not in prompt:
            raise InputError(
                f"the prompt holds no {name}, where a text of each pair goes; write it in"
            )
    places: dict[str, str] = dict(zip(names, texts, strict=True))
    # at once: a text may hold the name of a place
    return re.sub("|".join(map(re.escape, names)), lambda match: places[match.group()], prompt)


_NAMED = re.compile(
    r"^(?:question|(?:first |second )?answer|[12])\s*(?:of the \w+ image)?\s*[:.)]\s*", re.I
)


def _turn(answer: str) -> list[str]:
    """A question and two answers, a line each, of a writer's answer. Raises BadSample for another form.

    >>> _turn("Question: what colour?\\n1. red\\n2. green")
    ['what colour?\\nred\\ngreen']
    """
    found = [_NAMED.sub("", line) for line in lines(answer)]
    if len(found) != 3 or not all(found):
        raise BadSample("form", "it has no three lines")
    if found[1].lower() == found[2].lower():
        raise BadSample("same-answers", found[1])
    return ["\n".join(found)]
