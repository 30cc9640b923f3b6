"""The prompts whose last token summarizes an image, or a text, best, by a model that reads images with a
language model and was not trained to embed.

Of many prompts those are good whose next token is uncertain and whose embeddings fill many directions: both go
with retrieval by a model that is not trained.

    entropy = mean over items of - sum_w p(w | item, prompt) log p(w | item, prompt)
    rank    = exp( - sum_i q_i log q_i ),    q_i = s_i / sum_j s_j,   s the singular values of the embeddings

of unit embeddings less their mean. Prompts are ordered by the mean of their places by the two numbers.

Dimensions: N items, K prompts, D width of the language model.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from diptych.data.sample import BadSample, Sample, Source
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, read_images, read_texts
from diptych.metrics.distribution import effective_rank
from diptych.models.vlm import Summaries

SIDES = ("image", "text")
_VERBS = ("Summarize", "Describe", "Represent", "Express", "Name")
_OBJECTS = ("the provided {}", "this {}")
_ENDS = (
    "in one word:",
    "in a single word:",
    "with one word:",
    "in a few words:",
    "by its main content:",
)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A prompt with its entropy in nats, its effective rank, and the mean of its places by the two."""

    prompt: str
    entropy: float
    rank: float
    place: float


def candidates(side: str) -> list[str]:
    """Return 50 prompts about an image, or a text.

    >>> candidates("image")[0], len(candidates("text"))
    ('Summarize the provided image in one word:', 50)
    """
    return [" ".join(words).format(side) for words in product(_VERBS, _OBJECTS, _ENDS)]


def read_candidates(path: str, side: str) -> list[str]:
    """Return the prompts of a file, one a line, in which {} stands for image or text.

    Raises InputError for a file that is not there, or that has no two different prompts.
    """
    try:
        text = Path(path).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path} is no text file; name one with a prompt a line") from None
    lines = (line.strip().replace("{}", side) for line in text.splitlines())
    found = list(dict.fromkeys(line for line in lines if line))
    if len(found) < 2:
        raise InputError(
            f"{path} has {len(found)} prompts for {side}s; write two or more, one a line"
        )
    return found


def scored(prompts: Sequence[str], found: Summaries) -> list[Scored]:
    """Return the prompts with their numbers, the best first; equal ones in the given order."""
    entropy = [float(row.mean()) for row in found.entropy.double()]
    ranks = []
    for vectors in found.vectors.double():
        units = normalize(vectors, dim=-1)
        ranks.append(effective_rank(units - units.mean(0)))
    rows = [
        Scored(prompt=prompt, entropy=each, rank=rank, place=place)
        for prompt, each, rank, place in zip(
            prompts, entropy, ranks, _mean_places(entropy, ranks), strict=True
        )
    ]
    return sorted(rows, key=lambda row: row.place)


def _mean_places(*numbers: Sequence[float]) -> list[float]:
    """The mean of each prompt's places, 1 the largest; equal numbers share the best place."""
    table = torch.tensor(numbers, dtype=torch.float64)
    places = 1 + (table[:, None, :] > table[:, :, None]).sum(-1)
    return places.double().mean(0).tolist()


def choose(
    model: Any,
    source: Source,
    prompts: Mapping[str, Sequence[str]],
    *,
    role: str = "caption",
    count: int = 256,
    longest: int = 29,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> tuple[dict[str, list[Scored]], Counter[str]]:
    """Return the prompts of each side with their numbers, the best first, and how many samples cannot be
    read, by reason.

    `prompts` are those about images, and about texts, by side. They are read behind the images of the first
    `count` samples, and behind their first texts of the role of at most `longest` tokens.

    Raises InputError for fewer than two samples of a side.
    """
    bad: Counter[str] = Counter()
    first = Wrapped(source, np.arange(min(count, len(source))))
    steps = Steps(progress, len(first) * len(prompts))

    def images(asked: Sequence[str]) -> Iterator[Summaries]:
        """The summaries of images, batch by batch."""
        how = {"exact": False, "batch_size": batch_size, "steps": steps}
        for pixels, _ in read_images(model, first, lambda sample: None, bad, **how):
            yield model.summaries(asked, images=pixels, batch_size=batch_size)

    def short(sample: Sample) -> str:
        """The first short text."""
        for text in sample.captions(role):
            if 0 < len(model.captioner.words.ids(text)) <= longest:
                return text
        raise BadSample("no-short-text", f"{sample.key} has no short text of role {role!r}")

    def texts(asked: Sequence[str]) -> Iterator[Summaries]:
        """The summaries of short texts, batch by batch."""
        read = read_texts(first, short, bad)
        for start in range(0, len(read), batch_size):
            some = read[start : start + batch_size]
            yield model.summaries(asked, texts=some, batch_size=batch_size)
            steps.add(len(some))

    summarized = {"image": images, "text": texts}
    found = {}
    for side, asked in prompts.items():
        parts = list(summarized[side](asked))
        whole = Summaries(
            torch.cat([part.vectors for part in parts], 1),
            torch.cat([part.entropy for part in parts], 1),
        )
        if whole.vectors.shape[1] < 2:
            raise InputError(
                f"of {source.name} one {side} can be read, and prompts are compared by two or more; name another source"
            )
        found[side] = scored(asked, whole)
    return found, bad
