"""SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments (Caron et al.,
NeurIPS 2020).

Two full crops of each image are assigned to learned prototypes c_k, such that all prototypes are
used equally. Every other crop of the image, small ones included, predicts that assignment:

    L = mean over full crops v and other crops u of -mean_i Σ_k Q^v_ik log softmax(z^u_i·c_k / tau)

Q^v is the Sinkhorn assignment of the batch, with a queue of earlier embeddings if the batch has
fewer samples than there are prototypes. z and c are unit vectors; the prototypes are frozen at
first. Inference: the tower before the projector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.views import Augment, ImageView, View
from diptych.methods.base import At, Features, Losses, Recipe, Stage
from diptych.methods.families.image_only import PAPER, SMALL, STRONG, ImageOnly, ImageOnlyConfig
from diptych.methods.make import Make
from diptych.objectives.noncontrastive import assignment_loss, sinkhorn
from diptych.spec import AtLeast, Count, Positive, Share, configure
from diptych.towers.nn.parts import Queue

card = {
    "title": "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
    "year": 2020,
    "kind": "method",
    "entry": "SwAV",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config(ImageOnlyConfig):
    """Options of the crops and the prototypes.

    - `crops` is the number of small crops, of `crop_size` pixels (None: as large as the full ones),
      augmented by `small`.
    - `prototypes` are assigned with `eps` and `iterations` and predicted at `tau`; they are frozen
      for the first `still` of training.
    - `queue` is the number of earlier embeddings of each full crop, 0 for none.
    """

    augment: Mapping[str, Any] = field(default_factory=lambda: {**STRONG, "crop": (0.14, 1.0)})
    small: Mapping[str, Any] = field(default_factory=lambda: {**STRONG, "crop": (0.05, 0.14)})
    crops: Annotated[int, AtLeast(0)] = 6
    crop_size: Count | None = None
    prototypes: Annotated[int, AtLeast(2)] = 3000
    eps: Positive = 0.05
    iterations: Count = 3
    tau: Positive = 0.1
    still: Share = 0.01
    queue: Annotated[int, AtLeast(0)] = 0


class SwAV(ImageOnly):
    """Predicts each crop's assignment to prototypes from the other crops."""

    Config = Config

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.small = configure(Augment, dict(config.small), "small")
        self.prototypes = nn.Linear(self.model.embed_dim, config.prototypes, bias=False)
        if config.queue:
            self.queues = nn.ModuleList(
                [Queue(config.queue, self.model.embed_dim, seed) for seed in (0, 1)]
            )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        preprocess = self.model.image.preprocess
        if not config.crops:
            return super().views(stage, stream)
        size = (
            preprocess if config.crop_size is None else replace(preprocess, size=config.crop_size)
        )
        small = ImageView(preprocess=size, name="small", augment=self.small, count=config.crops)
        return (*super().views(stage, stream), small)

    def encode(self, batch: Batch, at: At) -> Features:
        features = super().encode(batch, at)
        if self.config.crops:
            pooled = self.model.encode_image(batch.images["small"].flat).pooled
            features["crops"] = self.model.project_image(pooled).unflatten(0, (len(batch), -1))
        return {name: normalize(views, dim=-1) for name, views in features.items()}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        config = self.config
        full = features["views"].unbind(1)
        crops = [*full, *(features["crops"].unbind(1) if config.crops else ())]
        free = float(at.progress >= config.still)  # else the gradient is 0, not missing
        weight = self.prototypes.weight
        prototypes = normalize(free * weight + (1 - free) * weight.detach(), dim=1)
        scores = [crop @ prototypes.T for crop in crops]
        terms = []
        for number, mine in enumerate(full):
            assigned = self._assigned(mine.detach(), prototypes.detach(), number)
            others = [each for at_, each in enumerate(scores) if at_ != number]
            terms += [assignment_loss(each, assigned, 1 / config.tau) for each in others]
        return Losses(
            {"assignment": torch.stack(terms).mean()},
            carry={"full": [view.detach() for view in full]},
        )

    def _assigned(self, z: Tensor, prototypes: Tensor, number: int) -> Tensor:
        """Return Q (B, K) of the batch, balanced together with the queue."""
        rows = torch.cat([z, self.queues[number].rows.to(z)]) if self.config.queue else z  # type: ignore[union-attr]
        found = sinkhorn(
            rows @ prototypes.T, eps=self.config.eps, iterations=self.config.iterations
        )
        return found[: len(z)]

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        if self.config.queue:
            for queue, rows in zip(self.queues, carry["full"], strict=True):
                queue.push(rows)  # type: ignore[operator]


SwAV.presets = {
    "small": replace(
        SMALL,
        config={
            **SMALL.config,
            "projector": "mlp:hidden=256",
            "prototypes": 256,
            "crops": 2,
            "crop_size": 32,
            "small": {**SMALL.config["augment"], "crop": (0.1, 0.3)},
        },
    ),
    "paper": replace(
        PAPER,
        config={"crop_size": 96, "projector": "mlp:hidden=2048"},
        recipe=Recipe(
            optimizer="sgd",
            lr=4.8,
            betas=(0.9, 0.0),
            weight_decay=1e-6,
            warmup=0.0125,
            min_lr=0.001,
            epochs=800,
            batch_size=4096,
            precision="bfloat16",
        ),
    ),
}
