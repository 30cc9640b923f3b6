"""TIP-CLIP: Learning the Visualness of Text Using Large Vision-Language Models (Verma et al., EMNLP
2023).

A dual encoder is trained to recognise sentences that describe something visible: a visual text is
matched with its image, any other text with one NULL image of random pixels, so that the distance to
it separates the two kinds.

    L = 1/2 [ CE(s X Y^T, diagonal) + CE(s Y X^T, diagonal) ],   X_m = x_m where text m is visual, else x_null

The loss is CLIP's, unchanged: the NULL rows of a batch are negatives of each other although they
are one image, and the minimum is (m / N) log m with m NULL rows among N. The image tower computes
x_null once in every step, with its gradient. Both stages have the same loss: `train` has automatic
labels (`diptych data label`), `human` has labels by people. Inference: S(t) = 1 - <x_null, t>,
visual above a threshold, which is found on texts of the stream `calibrate` or afterwards
(`methods.adapt.visualness.model`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.images import noise_image
from diptych.data.plan import Stratified, kinds_of
from diptych.data.sample import Source
from diptych.data.views import TextView, View
from diptych.errors import InputError, unknown
from diptych.methods.adapt.visualness.model import Visualness
from diptych.methods.adapt.visualness.views import OwnImageView, VisualView
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.families.few_shot import SMALL
from diptych.methods.families.pairs import Pairs
from diptych.methods.make import Make
from diptych.metrics import best_threshold
from diptych.objectives import info_nce
from diptych.spec import Positive
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature

card = {
    "title": "TIP-CLIP: Learning the Visualness of Text Using Large Vision-Language Models",
    "year": 2023,
    "kind": "method",
    "entry": "TIPCLIP",
    "provenance": "paper",
    "abilities": {"score": ""},
}

STREAMS = ("train", "human", "calibrate")
"""The possible streams: automatic labels, labels by people, and texts to calibrate the threshold
on."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """`role` and `augment` are as in other methods on pairs. Without `label` a text is visual if
    its sample has an image; `label` names a label that is 1 for visual texts and 0 for others,
    whether or not these have an image.

    `null_seed` seeds the NULL image. `visual` sets what visual texts are matched with: "own", their
    images; "common", one white image [choice: which one is not published], which separates the
    kinds as well but destroys retrieval. `human_epochs` is the length of the second stage.
    """

    role: str = "caption"
    augment: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None
    null_seed: int = 0
    visual: Literal["own", "common"] = "own"
    human_epochs: Positive = 2.0


class TIPCLIP(Pairs):
    """CLIP's loss, with one NULL image for all texts that describe nothing visible."""

    Config = Config
    features_from = (
        Method.features_from
    )  # the loss reads more than images and texts, so it cannot be added to another method
    adapts = True

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return "visual {run} TEXTS.txt", "evaluate {run} --data {data} --suite visualness,retrieval"

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        encoder = make.dual(logit_scale=Temperature(1 / 0.07, clamp=(1.0, 100.0)))
        if encoder.text is None or make.words is None:
            raise InputError(
                "visualness is of texts, and this model has no text tower or came without its tokenizer; "
                "start from one of images and texts"
            )
        null = noise_image(encoder.image.preprocess, config.null_seed)
        self.delivered = Visualness(encoder, null, config.label)
        self.streams: Sequence[str] = STREAMS

    @property
    def model(self) -> DualEncoder:  # type: ignore[override]  # a property: registered only once
        """The dual encoder."""
        return self.delivered.encoder

    def deliver(self) -> Visualness:
        return self.delivered

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Find the streams that are given. Raises InputError for one that is not in STREAMS, and
        for one whose texts are all of one kind, before training instead of at calibration."""
        for name, source in sources.items():
            if name not in STREAMS:
                raise unknown("stream of visualness", name, STREAMS)
            if (
                self.kind in source.schema()
                and len(found := np.unique(kinds_of(source, self.kind))) < 2
            ):
                raise InputError(
                    f"every sample of {source.name}, the stream {name!r}, has the same {self.kind} ({found[0]}), so "
                    "its texts are of one kind; add texts of the other kind, or name a label with --method.label"
                )
        self.streams = tuple(name for name in STREAMS if name in sources)

    @property
    def kind(self) -> str:
        """The field that marks the visual texts."""
        return "images.main" if self.config.label is None else f"labels.{self.config.label}"

    def stages(self) -> Sequence[Stage]:
        plan = Stratified(self.kind)
        known = {
            "train": Stage(plan=plan),
            "human": Stage(
                name="human",
                streams=("human",),
                plan=plan,
                recipe={"epochs": self.config.human_epochs},
            ),
            "calibrate": Stage(
                name="calibrate", streams=("calibrate",), optimize=False, prepare=self.calibrate
            ),
        }
        return [stage for name, stage in known.items() if name in self.streams]

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        label = self.config.label
        texts = [
            TextView(tokenizer=self.make.tokenizer, name=f"main{end}", role=role)
            for end, role in self.roles.items()
        ]
        if not stage.optimize:
            return (VisualView(label=label), *texts)
        preprocess = self.model.image.preprocess
        image = OwnImageView(preprocess=preprocess, augment=self.augment, label=label)
        return (image, VisualView(label=label), *texts)

    def _encode_images(self, batch: Batch, at: At) -> Features:
        """Encode the images of the visual rows and the NULL image in one pass, each once."""
        visual: Any = batch.fields["visual"]
        null = self.delivered.null[None]
        if self.config.visual == "common":
            vectors = self.model.embed_images(torch.cat([torch.full_like(null, 255), null]))
            return {"image": vectors[(~visual).long()]}
        vectors = self.model.embed_images(torch.cat([batch.image.flat[visual], null]))
        return {"image": vectors[torch.where(visual, visual.cumsum(0) - 1, len(vectors) - 1)]}

    def groups(self, visual: Tensor) -> Tensor:
        """Return equal numbers for the rows (B,) of a batch that have the same image."""
        common = self.config.visual == "common"
        return torch.where(
            visual, 1 if common else 1 + torch.arange(len(visual), device=visual.device), 0
        )

    def terms(self, image: Tensor, text: Tensor, **equal: Any) -> dict[str, Tensor]:
        return {"contrastive": info_nce(image, text, self.model.logit_scale())}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        """Return CLIP's loss and log how far it is above its minimum, which dominates with many
        NULL rows."""
        losses = super().loss(features, batch, at)
        visual: Any = batch.fields["visual"]
        reported = {
            "above_floor": losses.total.detach() - floor(self.groups(visual)),
            "visual": visual.float().mean(),
        }
        return replace(losses, logged={**losses.logged, **reported})

    @torch.no_grad()
    def calibrate(self, run: Any) -> None:
        """Find the threshold on the stream `calibrate`; the logged error is the share of
        misclassified texts."""

        def scored(batch: Batch) -> dict[str, Any]:
            texts = self.model.embed_texts(*batch.text.flat)
            return {
                "score": 1 - texts @ self.delivered.null_vector(),
                "visual": batch.fields["visual"],
            }

        source = run.sources["calibrate"]
        stage = next(stage for stage in self.stages() if stage.name == "calibrate")
        found = run.map(scored, self.views(stage), source)
        best = best_threshold(found["score"], found["visual"])
        threshold = float(
            self.delivered.threshold.fill_(best)
        )  # as it is stored, in single precision
        wrong = float(((found["score"] > threshold) != found["visual"]).mean())
        run.note(0, 1, wrong, threshold=threshold)


def floor(groups: Tensor) -> Tensor:
    """Return the minimum of the loss: where rows of a group (B,) share one image, and all else is
    separated.

        L >= (1 / N) Σ_groups m log m

    >>> float(floor(torch.tensor([0, 0, 1])))  # (2 / 3) log 2
    0.4620...
    """
    sizes = torch.unique(groups, return_counts=True)[1].double()
    return (sizes * sizes.log()).sum() / len(groups)


TIPCLIP.presets = {
    "small": Preset(
        config={"augment": {}},
        image=SMALL.image,
        text=SMALL.text,
        tokenizer=SMALL.tokenizer,
        embed_dim=SMALL.embed_dim,
        recipe=Recipe(
            lr=3e-4,
            betas=(0.9, 0.999),
            weight_decay=0.0,
            warmup=0.1,
            clip=1.0,
            epochs=5,
            batch_size=64,
        ),
    ),
    # CLIP's ViT-B/32, given by --init. Adam, its rate and both lengths are published; the batch
    # size and the constant rate are ours.
    "paper": Preset(
        image="vit:image_size=224:patch=32:width=768:depth=12:heads=12:pre_norm=true",
        text="text:width=512:depth=12:heads=8",
        tokenizer="clip",
        embed_dim=512,
        recipe=Recipe(
            lr=5e-5,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            schedule="constant",
            warmup=0.0,
            batch_size=256,
            epochs=5,
        ),
    ),
}
