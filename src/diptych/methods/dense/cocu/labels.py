"""Concepts of a sample as further texts: which of them are drawn, and the loss of several texts an image.

Dimensions: B samples, K texts of concepts, M concepts of a sample, E embedding, L tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.data.sample import BadSample, Sample, Text
from diptych.data.sources.rewritten import CLUSTER, SCORE
from diptych.data.templates import filled
from diptych.data.tokenizers import Tokenizer
from diptych.objectives import info_nce

Sampling = Literal["clusters", "top"]


@dataclass(frozen=True, kw_only=True)
class ConceptView:
    """A caption of a sample and prompts of `labels` = K of its concepts (B, 1 + K, L), named texts.main.

    The prompt of a concept is a random one of `templates`. A sample with fewer concepts has its
    caption in their places. Concepts are drawn by `draw_concepts`, or with "top" they are those of the
    highest scores. Outside training caption and template are the first ones, and the concepts the
    highest. Raises BadSample("no-caption").
    """

    tokenizer: Tokenizer
    role: str
    concepts: str
    labels: int
    sampling: Sampling
    templates: Sequence[str]

    @property
    def reads(self) -> tuple[str, ...]:
        return f"texts.{self.role}", f"texts.{self.concepts}"

    @property
    def gives(self) -> tuple[str, ...]:
        return ("texts.main",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        return {"texts.main": self.tokenizer.encode(self.drawn(sample, rng, progress))}

    def drawn(self, sample: Sample, rng: np.random.Generator, progress: float | None) -> list[str]:
        """The 1 + K texts of a sample."""
        captions = [text for text in sample.captions(self.role) if text.strip()]
        if not captions:
            raise BadSample("no-caption", f"no text of role {self.role!r}")
        training = progress is not None
        caption = captions[int(rng.integers(len(captions))) if training else 0]
        concepts = [text for text in sample.texts if text.role == self.concepts]
        scores = np.array([_number(text, SCORE, 0.0) for text in concepts])
        if training and self.sampling == "clusters" and len(concepts) >= self.labels:
            clusters = [int(_number(text, CLUSTER, at)) for at, text in enumerate(concepts)]
            rows = draw_concepts(scores, np.array(clusters), self.labels, rng)
        else:
            rows = np.argsort(-scores, kind="stable")[: self.labels]
        texts = [caption]
        for row in rows.tolist():
            at = int(rng.integers(len(self.templates))) if training else 0
            texts.append(filled(self.templates[at], concepts[row].text))
        return texts + [caption] * (1 + self.labels - len(texts))


def _number(text: Text, name: str, default: float) -> float:
    """A number that is an attribute of a concept. Raises BadSample for anything else."""
    value = text.attrs.get(name, default)
    if not isinstance(value, int | float) or not np.isfinite(value):
        raise BadSample("concepts", f"the {name} of {text.text!r} is {value!r}, not a number")
    return value


def draw_concepts(
    scores: np.ndarray, clusters: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """The rows of `count` concepts, from scores (M,) and numbers of clusters (M,).

    A cluster is drawn with a probability that is the softmax of the mean scores of clusters, with
    replacement, and then one of its concepts by the softmax of their scores.

    >>> draw_concepts(np.array([9.0, 0.0]), np.array([4, 4]), 3, np.random.default_rng(0)).tolist()
    [0, 0, 0]
    """
    numbers, own = np.unique(clusters, return_inverse=True)
    means = np.bincount(own, scores) / np.bincount(own)
    rows = []
    for cluster in rng.choice(len(numbers), count, p=_softmax(means)):
        members = np.flatnonzero(own == cluster)
        rows.append(rng.choice(members, p=_softmax(scores[members])))
    return np.array(rows)


def _softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def multi_label_nce(image: Tensor, texts: Tensor, scale: Tensor | float) -> Tensor:
    """InfoNCE of images (B, E) with K texts each (B, K, E), unit vectors.

        L = ½ [ mean_b -1/K Σ_k log p(text bk | image b) + mean_bk -log p(image b | text bk) ]

    The first softmax is over all B K texts, so that it is at least ln K; the second over the B images.
    With one text each it is CLIP's loss.

    >>> x = torch.eye(2)
    >>> round(multi_label_nce(x, x[:, None], 1.0).item(), 6)  # log(e + 1) - 1
    0.313262
    """
    count, labels = texts.shape[:2]
    owners = torch.arange(count, device=texts.device).repeat_interleave(labels)
    places = torch.stack([owners, torch.arange(len(owners), device=texts.device)])
    dtype = torch.promote_types(texts.dtype, torch.float32)
    share = torch.full((len(owners),), 1 / labels, dtype=dtype, device=texts.device)
    targets = torch.sparse_coo_tensor(places, share, (count, len(owners)), check_invariants=False)
    return info_nce(image, texts.flatten(0, 1), scale, targets=(targets, owners))
