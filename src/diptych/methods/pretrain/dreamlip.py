"""DreamLIP: Language-Image Pre-training with Long Captions (Zheng et al., ECCV 2024).

A long caption is split into sentences. Several of them, and the raw caption, are positives of their
image, and each groups the patches that it describes.

    L = w_g · mean_k ½ [ CE(s X T_k^T, diagonal) + CE(s T_k X^T, diagonal) ] + w_s · L_sub

X (B, E) are the images and T_k (B, E) the k-th texts of all of them. Each k is a separate loss, so
texts of one image are neither positives nor negatives of each other there. L_sub makes each text
find, among its image's texts, the mean g_ik of its patches (`objectives.grouping`); gradients flow
through the weights of that mean. Text 0 is the raw caption, the others are sampled from a pool of
sentences. The negatives of the paper's L_sub are in the same image; `negatives="batch"` is the
published code's version, which does not run as published. [choice] The scale of L_sub is learned
separately; patches pass through the final norm and the projection of the image vector. Inference:
plain CLIP; `evaluation.suites.pointing.ground(model, image, texts)` returns the weights of the
patches. For a long text, embed the sentences and use the mean or the best.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.views import SentenceView, View
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.families.pairs import SMALL, tune
from diptych.methods.make import Make
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.pretrain.clip import Config as CLIPConfig
from diptych.objectives import info_nce
from diptych.objectives.grouping import Weighting, grouped, grouping
from diptych.spec import Count, NotNegative, Positive, Share
from diptych.towers.nn.parts import Temperature

card = {
    "title": "DreamLIP: Language-Image Pre-training with Long Captions",
    "year": 2024,
    "kind": "method",
    "entry": "DreamLIP",
    "provenance": "code",
}


@dataclass(frozen=True, kw_only=True)
class Config(CLIPConfig):
    """Options of the sentences and of L_sub.

    - `role` is the role of the raw caption; `pool` lists the roles whose sentences are sampled,
      joined by `+`.
    - `sentences` are sampled for each image; `merged` neighbouring sentences are joined to one.
    - `contrastive` and `subcaption` are w_g and w_s.
    - `sigma` is the weight below which a patch is cut off (None: 1 / number of patches);
      `weighting` is how the weights are computed.
    - `negatives` and `local_scale` are those of L_sub.
    """

    pool: str = "caption+synthetic+long"
    sentences: Count = 6
    merged: Count = 1
    contrastive: NotNegative = 1.0
    subcaption: NotNegative = 1.0
    sigma: Share | None = None
    weighting: Weighting = "minmax"
    negatives: Literal["image", "batch"] = "image"
    local_scale: Positive = 1 / 0.07

    several: ClassVar[bool] = False


class DreamLIP(CLIP):
    """CLIP on several sentences of a long caption, each grouped with its patches."""

    Config = Config
    features_from = (
        Method.features_from
    )  # the loss reads more than images and texts, so it cannot be added to another method

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        if config.subcaption:
            self.local = Temperature(config.local_scale, clamp=(1.0, config.max_scale))

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        drawn = SentenceView(
            tokenizer=self.make.tokenizer,
            roles=tuple(config.pool.split("+")),
            count=config.sentences,
            merged=config.merged,
        )
        return (*super().views(stage, stream), drawn)

    def encode(self, batch: Batch, at: At) -> Features:
        count = len(batch)
        encoded = self.model.encode_image(batch.image.flat)
        image = normalize(self.model.project_image(encoded.pooled), dim=-1)
        texts = torch.cat(
            [
                self.model.embed_texts(*batch.texts[name].flat).unflatten(0, (count, -1))
                for name in ("main", "sentences")
            ],
            1,
        )
        features = {"image": image, "texts": texts}
        if self.config.subcaption:
            # Not `encoded.patches`: with patch dropout there are those that are kept, off the grid.
            kept = encoded.tokens[:, encoded.prefix :]
            patches = normalize(self.model.project_image(kept), dim=-1)
            sigma = 1 / patches.shape[1] if self.config.sigma is None else self.config.sigma
            features["groups"] = grouped(
                texts, patches, sigma=sigma, weighting=self.config.weighting
            )
        return features

    def parts(self) -> Mapping[str, Callable[[Batch, At], Features]]:
        return {"all": self.encode}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        config = self.config
        texts = features["texts"]
        scale = self.model.logit_scale()
        equal: list[dict[str, Any]] = [{}] * texts.shape[1]
        if config.duplicates != "apart":
            equal = [
                config.equal(column)
                for name in ("main", "sentences")
                for column in batch.texts[name].columns()
            ]
        columns = [
            info_nce(features["image"], texts[:, k], scale, **equal[k])
            for k in range(texts.shape[1])
        ]
        terms = {"contrastive": config.contrastive * torch.stack(columns).mean()}
        if config.subcaption:
            local = grouping(texts, features["groups"], self.local(), negatives=config.negatives)
            terms["subcaption"] = config.subcaption * local
        return Losses(terms, self.logged(features))


DreamLIP.presets = {
    "small": replace(
        SMALL,
        config={
            **SMALL.config,
            "scale": 5.0,
            "local_scale": 5.0,
            "sentences": 3,
            "pool": "caption+long",
        },
    ),
    "paper": Preset(
        config={"augment": {"crop": (0.9, 1.0)}},
        image="vit:image_size=224:patch=16:width=768:depth=12:heads=12:pre_norm=true",
        text="text:width=512:depth=12:heads=8",
        tokenizer="clip",
        embed_dim=512,
        recipe=Recipe(
            lr=5e-4,
            weight_decay=0.2,
            warmup=10_000,
            epochs=32,
            batch_size=1024,
            precision="bfloat16",
        ),
    ),
}
DreamLIP.presets = {**DreamLIP.presets, "tune": tune(DreamLIP.presets["small"])}
