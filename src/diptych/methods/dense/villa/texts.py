"""The sentences of a text, the attributes that they mention, and the texts of regions that are made of
them.

Dimensions: B samples, S sentences, A attributes, R regions, L tokens, E embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.matcher import Matcher
from diptych.data.sample import BadSample, Sample
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import sentences

SHORTEST = 3
"""Sentences of so many characters or fewer are left out."""


def said_in(sample: Sample, role: str) -> list[str]:
    """The sentences of a sample's texts of a role, each once."""
    found = [each for text in sample.captions(role) for each in sentences(text)]
    return [each for each in dict.fromkeys(found) if len(each) > SHORTEST]


@dataclass(frozen=True, kw_only=True)
class MentionsView:
    """Up to `max_sentences` = S sentences of a sample's texts, and which attributes they mention.

    Given are texts.sentences (B, S, L), fields.sentences.there (B, S), fields.mentions (B, S, A), and
    fields.chosen (B, A), the number of a random sentence of those that mention an attribute, -1 for an
    attribute that none mentions. Raises BadSample for more sentences.
    """

    tokenizer: Tokenizer
    matcher: Matcher
    max_sentences: int
    role: str = "caption"

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"texts.{self.role}",)

    @property
    def gives(self) -> tuple[str, ...]:
        return "texts.sentences", "fields.sentences.there", "fields.mentions", "fields.chosen"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        said = said_in(sample, self.role)
        if len(said) > self.max_sentences:
            raise BadSample(
                f"more-than-{self.max_sentences}-sentences",
                f"{len(said)} sentences; raise --method.sentences",
            )
        mentions = mentioned(said, self.matcher, self.max_sentences)
        return {
            "texts.sentences": self.tokenizer.encode(
                said + [""] * (self.max_sentences - len(said))
            ),
            "fields.sentences.there": torch.arange(self.max_sentences) < len(said),
            "fields.mentions": torch.from_numpy(mentions),
            "fields.chosen": torch.from_numpy(drawn(mentions, rng)),
        }


def mentioned(said: Sequence[str], matcher: Matcher, max_sentences: int) -> np.ndarray:
    """Which of the matcher's names (A) each sentence mentions (S, A) bool, filled up to `max_sentences` rows.

    >>> mentioned(["a red four", "ones"], Matcher(["red", "four", "one"], plural=False), 3).astype(int).tolist()
    [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    """
    found = np.zeros((max_sentences, len(matcher.names)), bool)
    number = {name: at for at, name in enumerate(matcher.names)}
    for row, sentence in enumerate(said):
        found[row, [number[name] for name in matcher.find(sentence)]] = True
    return found


def drawn(mentions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random sentence for each attribute (A,) of those (S, A) that mention it, -1 for none.

    >>> drawn(np.array([[True, False], [False, False]]), np.random.default_rng(0)).tolist()
    [0, -1]
    """
    draws = np.where(mentions, rng.random(mentions.shape), -1.0)
    return np.where(mentions.any(0), draws.argmax(0), -1)


def unit_texts(
    found: Tensor, chosen: Tensor, vectors: Tensor, there: Tensor
) -> tuple[Tensor, Tensor]:
    """The text vectors (B, R + 1, E) of the units of images, their regions and the whole image, and
    which of the units have a text (B, R + 1).

        t_j = unit( mean of the unit vectors of the sentences that are chosen for an attribute of j )

    The whole image has all sentences. `found` (B, R, A) are the attributes of regions, `chosen` (B, A)
    the sentences of the attributes, `vectors` (B, S, E) the unit vectors of sentences, and `there`
    (B, S) which of them are real. A sentence of several attributes counts once.
    """
    picked = F.one_hot(chosen.clamp(min=0), vectors.shape[1]) * (chosen >= 0)[..., None]
    said = (found.to(vectors) @ picked.to(vectors)) > 0
    said = torch.cat([said, there[:, None]], dim=1)
    return F.normalize(said.to(vectors) @ vectors, dim=-1), said.any(-1)
