"""Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification (Zhang et al., ECCV
2022).

The labelled images themselves are the adapter: a cache of their vectors adds votes for the classes
of the images near a new one to the logits of the class names.

    logits_c = s <x, t_c> + alpha · sum_{k: y_k = c} exp(-beta (1 - <x, F_k>))

F_k are the unit vectors of the labelled images, y_k their classes. Nothing is trained; with `tune`
(Tip-Adapter-F) the F_k are then trained by the cross-entropy of these logits. Names that were not
in the training data have no votes, only the logits of their prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from diptych.data.batch import Batch
from diptych.data.sample import Source, labels_of
from diptych.errors import InputError
from diptych.methods.base import Stage
from diptych.methods.families.few_shot import PAPER, SMALL, Classify, PromptedConfig
from diptych.models.classifier import Classifier
from diptych.spec import NotNegative
from diptych.towers.dual import DualEncoder

card = {
    "title": "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification",
    "year": 2022,
    "kind": "method",
    "entry": "TipAdapter",
    "provenance": "paper",
}


ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
BETAS = (1.0, 2.5, 5.5, 10.0, 20.0, 40.0, 70.0, 100.0)
"""The grid of which `None` chooses."""


@dataclass(frozen=True, kw_only=True)
class Config(PromptedConfig):
    """`alpha` weighs the votes, `beta` is how fast they fall with distance; None: the value with
    which most images of the cache are classified rightly without their own votes. `tune` trains
    the cache."""

    alpha: NotNegative | None = 1.0
    beta: NotNegative | None = 5.5
    tune: bool = False


class Cached(Classifier):
    """A classifier with a cache: `keys` (K, E) and `owners` (K,), the index of each key's class in
    `trained`."""

    owners: Tensor

    def __init__(
        self, encoder: DualEncoder, tokenizer: Any, template: str, *, alpha: float, beta: float
    ):
        super().__init__(encoder, tokenizer, template)
        self.alpha = alpha
        self.beta = beta
        self.trained: tuple[str, ...] = ()
        self.hold(0)

    def hold(self, count: int, trained: Sequence[str] = ()) -> None:
        """Allocate the vectors of `count` images of the classes `trained`."""
        device = self.ids.device
        self.trained = tuple(trained)
        self.keys = nn.Parameter(torch.zeros(count, self.encoder.embed_dim, device=device))
        self.register_buffer("owners", torch.zeros(count, dtype=torch.int64, device=device))

    def logits(self, x: Tensor, texts: Tensor | None) -> Tensor:
        assert texts is not None
        return self.judged(self.image_features(x), texts)

    def judged(self, image: Tensor, texts: Tensor, without: Tensor | None = None) -> Tensor:
        """Return logits (N, C) of unit vectors of images (N, E) and classes (C, E); for image i the
        vote of key `without[i]` is left out."""
        by_name = self.encoder.logit_scale() * image @ texts.T
        return by_name + self.alpha * self.votes(image @ self.keys.T, without)

    def votes(self, similarity: Tensor, without: Tensor | None = None) -> Tensor:
        """Return the votes (N, C) for the classes, given the similarities (N, K) to the keys."""
        near = torch.exp(-self.beta * (1 - similarity))
        if without is not None:
            near = near.scatter(1, without[:, None], 0.0)
        votes = near.new_zeros(len(near), max(1, len(self.trained))).index_add(1, self.owners, near)
        return self._named(votes)

    def _named(self, votes: Tensor) -> Tensor:
        """Map votes for the trained classes (N, C') to votes for the current ones (N, C)."""
        if self.classes == self.trained:
            return votes
        place = {name: number for number, name in enumerate(self.trained)}
        known = torch.tensor([name in place for name in self.classes], device=votes.device)
        at = torch.tensor([place.get(name, 0) for name in self.classes], device=votes.device)
        return votes[:, at] * known

    def extra_state(self) -> dict[str, Any]:
        return {
            **super().extra_state(),
            "trained": list(self.trained),
            "images": len(self.keys),
            "alpha": self.alpha,
            "beta": self.beta,
        }

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        super().load_extra_state(values)
        self.hold(values["images"], values["trained"])
        self.alpha = values.get("alpha", self.alpha)  # absent from early runs
        self.beta = values.get("beta", self.beta)


class TipAdapter(Classify):
    """A classifier with votes of the labelled images."""

    Config = Config
    model: Cached  # type: ignore[assignment]

    def build(self, encoder: DualEncoder) -> Cached:
        config = self.config
        return Cached(
            encoder,
            self.make.tokenizer,
            config.template,
            alpha=ALPHAS[0] if config.alpha is None else config.alpha,
            beta=BETAS[0] if config.beta is None else config.beta,
        )

    def setup(self, sources: Mapping[str, Source]) -> None:
        super().setup(sources)
        if self.model.classes:
            self.model.hold(len(sources["train"]), self.model.classes)
            self.model.keys.requires_grad_(self.config.tune)

    def stages(self) -> Sequence[Stage]:
        cache = Stage(name="cache", prepare=self.fill, optimize=False)
        return (cache, Stage(name="tune")) if self.config.tune else (cache,)

    @torch.no_grad()
    def fill(self, run: Any) -> None:
        """Fill the cache with the images' vectors, in the order of the source."""

        def vectors(batch: Batch) -> dict[str, Tensor]:
            return {"keys": self.model.image_features(batch.image.flat)}

        source = run.sources["train"]
        owners = torch.from_numpy(np.asarray(labels_of(source, self.config.label), np.int64))
        if (owners < 0).any():
            key = source.keys()[int((owners < 0).nonzero()[0])]
            raise InputError(
                f"{source.name}: {key} has no {self.config.label}; take it out of the data, or draw "
                "--shots, which passes it over"
            )
        keys = torch.from_numpy(run.map(vectors, self.views(self.stages()[0])[:1], source)["keys"])
        self.model.keys.copy_(keys)
        self.model.owners.copy_(owners)
        self.choose()
        loss, accuracy = self.without_itself()
        run.note(0, 1, loss, accuracy=accuracy)

    def choose(self) -> None:
        """Set what the options leave open of `alpha` and `beta`: of the grid, the pair with which
        most cached images are classified rightly, each without its own vote; of pairs that are
        equally good the first."""
        config = self.config
        model = self.model.eval()
        alphas = ALPHAS if config.alpha is None else (config.alpha,)
        betas = BETAS if config.beta is None else (config.beta,)
        if len(alphas) * len(betas) == 1:
            return
        texts = model.text_features()
        device = model.keys.device
        hits = torch.zeros(len(betas), len(alphas), device=device)
        for rows in torch.arange(len(model.keys), device=device).split(1024):
            image = model.keys[rows]
            by_name = model.encoder.logit_scale() * image @ texts.T
            similarity = image @ model.keys.T
            for number, model.beta in enumerate(betas):
                votes = model.votes(similarity, without=rows)
                for at, alpha in enumerate(alphas):
                    right = (by_name + alpha * votes).argmax(1) == model.owners[rows]
                    hits[number, at] += right.sum()
        best = int(hits.argmax())
        model.beta = betas[best // len(alphas)]
        model.alpha = alphas[best % len(alphas)]

    def without_itself(self) -> tuple[float, float]:
        """Return the mean cross-entropy and accuracy of the cached images, each without its own
        vote."""
        model = self.model.eval()
        texts = model.text_features()
        losses = []
        hits = []
        for rows in torch.arange(len(model.keys), device=model.keys.device).split(1024):
            logits = model.judged(model.keys[rows], texts, without=rows)
            losses.append(cross_entropy(logits, model.owners[rows], reduction="sum"))
            hits.append((logits.argmax(1) == model.owners[rows]).sum())
        count = max(1, len(model.keys))
        return float(sum(losses)) / count, float(sum(hits)) / count


TipAdapter.presets = {
    "small": replace(
        SMALL,
        config={"tune": True},
        recipe=replace(SMALL.recipe, optimizer="adamw", betas=(0.9, 0.999), lr=1e-3),
    ),
    # Tip-Adapter-F as published: 20 epochs of AdamW, with the published epsilon; alpha and beta are
    # to be chosen.
    "paper": replace(
        PAPER,
        config={**PAPER.config, "tune": True},
        recipe=replace(
            PAPER.recipe,
            optimizer="adamw",
            betas=(0.9, 0.999),
            eps=1e-4,
            lr=1e-3,
            weight_decay=0.01,
            batch_size=256,
            epochs=20,
            warmup=0.0,
        ),
    ),
}
