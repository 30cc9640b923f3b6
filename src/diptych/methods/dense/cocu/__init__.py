"""CoCu: Rewrite Caption Semantics, Bridging Semantic Gaps for Language-Supervised Semantic Segmentation
(Xing et al., NeurIPS 2023).

A caption leaves out most of what an image shows. Concepts of the captions of similar images that a CLIP
finds in the image too become further texts of it, and GroupViT, which groups patches into segments,
learns from both:

    L = L_cap + L_multi
    L_cap    InfoNCE of images and captions
    L_multi  InfoNCE of images and the prompts of K concepts each, with a scale of its own

Training reads captions and concepts; `diptych data rewrite` finds the concepts. Inference: the segments
of an image by any class names (`segment`), and as CLIP.

groupvit.py   image tower             curation.py   concepts of images
labels.py     draws and L_multi       rewrite.py    concepts of a source, as a file
model.py      segmentation

Dimensions: B images, K concepts, E embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch.nn.modules.batchnorm import _BatchNorm

from diptych.data.batch import Batch
from diptych.data.templates import templates
from diptych.data.views import ImageView, View, augmentation
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.dense.cocu.groupvit import GroupViT
from diptych.methods.dense.cocu.labels import ConceptView, Sampling, multi_label_nce
from diptych.methods.dense.cocu.model import Grouped
from diptych.methods.families.pairs import SMALL
from diptych.methods.make import Make
from diptych.objectives import info_nce
from diptych.spec import Count, NetworkSpec, NotNegative, Positive, Share
from diptych.towers.nn.parts import Temperature, freeze

card = {
    "title": "Rewrite Caption Semantics: Bridging Semantic Gaps for Language-Supervised Semantic Segmentation",
    "year": 2023,
    "kind": "method",
    "entry": "CoCu",
    "provenance": "code",
    "abilities": {"segment": "", "segment_whole": ""},
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of texts, loss and segmentation.

    - `role` is that of the captions, `concepts` that of the concepts, of which each image has
      `labels` = K.
    - `sampling` says how the K are chosen: "clusters" draws clusters of a like meaning, then a concept
      of each; "top" takes the highest scores.
    - `templates` are banks of prompts, files or templates (`data.templates`), of which one is drawn
      for each concept.
    - `augment` is the augmentation of images.
    - `projection` is the head of either tower.
    - `scale` is the first value of both scales, `max_scale` their bound; `weight` that of L_multi.
    - `noise` is the factor of the Gumbel noise by which patches are grouped in training.
    - `best` and `background` are those of `model.Grouped`, for segmentation.
    """

    role: str = "caption"
    concepts: str = "concept"
    labels: Count = 3
    sampling: Sampling = "clusters"
    templates: tuple[str, ...] = ("images",)
    augment: Mapping[str, Any] | None = field(default_factory=dict)
    projection: NetworkSpec = "mlp:hidden=4096:last_bias=true"
    scale: Positive = 1 / 0.07
    max_scale: Positive = 100.0
    weight: NotNegative = 1.0
    noise: NotNegative = 1.0
    best: Count = 5
    background: Share = 0.95


class CoCu(Method):
    """GroupViT that learns from captions and from concepts that they leave out."""

    Config = Config
    chunkable = False  # batch norm in the heads mixes samples
    test_options: ClassVar[Mapping[str, Any]] = {"noise": 0.0}  # which differs between ranks
    model: Grouped

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.augment = augmentation(config.augment)
        self.templates = [one for spec in config.templates for one in templates(spec)]
        bounds = (0.01, config.max_scale)
        encoder = make.dual(
            logit_scale=Temperature(config.scale, clamp=bounds),
            image_projection=config.projection,
            text_projection=config.projection,
        )
        if not isinstance(encoder.image, GroupViT) or encoder.text is None:
            raise InputError(
                "cocu trains a tower that groups patches, and a text tower; start from a run of its own, or from "
                "scratch with --image-tower cocu.groupvit"
            )
        encoder.image.noise = config.noise
        for side in ("image", "text"):
            if any(
                isinstance(part, _BatchNorm)
                for part in getattr(encoder, f"{side}_projection").modules()
            ):
                # it shifts all vectors alike, which the batch norm takes away
                freeze(getattr(encoder, side).norm.bias)
        self.model = Grouped(encoder, config.best, config.background)
        self.concept_scale = Temperature(config.scale, clamp=bounds)
        if not config.weight:
            freeze(self.concept_scale)

    @classmethod
    def resolve_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Replace the names of files of templates by the templates themselves."""
        given = options.get("templates", ())
        read = [
            one
            for spec in ([given] if isinstance(given, str) else given)
            for one in (templates(spec) if spec.endswith((".txt", ".json")) else [spec])
        ]
        return {**options, "templates": tuple(read)} if read else options

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        return (
            ImageView(preprocess=self.model.image.preprocess, augment=self.augment),
            ConceptView(
                tokenizer=self.make.tokenizer,
                role=config.role,
                concepts=config.concepts,
                labels=config.labels,
                sampling=config.sampling,
                templates=self.templates,
            ),
        )

    def encode(self, batch: Batch, at: At) -> Features:
        """Images (B, E), and their caption and concepts (B, 1 + K, E)."""
        encoder = self.model.encoder
        texts = encoder.embed_texts(*batch.text.flat)
        return {
            "image": encoder.embed_images(batch.image.flat),
            "texts": texts.unflatten(0, (-1, 1 + self.config.labels)),
        }

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        image = features["image"]
        caption = features["texts"][:, 0]
        concepts = features["texts"][:, 1:]
        scale = self.model.encoder.logit_scale()
        own = self.concept_scale()
        terms = {"caption": info_nce(image, caption, scale)}
        if self.config.weight:
            terms["concepts"] = self.config.weight * multi_label_nce(image, concepts, own)
        return Losses(terms, {"scale": scale, "concept_scale": own})

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "segment {run} IMAGES --names 'A,B,background'",
            "evaluate {run} --data SOURCE --suite segment",
        )


CoCu.presets = {
    "small": replace(
        SMALL,
        # a scale of 14 slows small towers down
        config={
            **SMALL.config,
            "projection": "mlp:hidden=256:last_bias=true",
            "scale": 5.0,
        },
        image=(
            "cocu.groupvit:image_size=48:patch=8:stem=conv:width=128:heads=4:depths=(1,1,1):groups=(8,4):"
            "path_dropout=0.0"
        ),
        embed_dim=128,
        recipe=replace(SMALL.recipe, lr=8e-3, ema=None),
    ),
    "paper": Preset(
        config={
            "templates": ("imagenet",),
            "augment": {
                "crop": (0.08, 1.0),
                "flip": True,
                "colour": 0.4,
                "randaugment": 2,
                "magnitude": 0.9,
                "erase": 0.25,
            },
        },
        image="cocu.groupvit:image_size=224:patch=16:width=384:heads=6:path_dropout=0.1",
        text="text:width=256:depth=12:heads=4:activation=quick_gelu",
        tokenizer="clip",
        embed_dim=256,
        recipe=Recipe(
            lr=1.6e-3,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.05,
            warmup=0.067,
            min_lr=0.025,
            clip=5.0,
            batch_size=1024,
            epochs=30,
        ),
    ),
}
