"""BioViL: Making the Most of Text Semantics to Improve Biomedical Vision-Language Processing (Boecking
et al., ECCV 2022).

A text encoder learns the language of reports before it meets images: masked words of any texts, then
the two sections of a report find each other. Image and text then need only a global contrastive loss
for phrases to be found in images.

    language    L = MLM
    sections    L = RSM + λ MLM,    RSM = mean_i CE(<f_i, s_j> / tau) + mean_i CE(<s_i, f_j> / tau)
    images      L = NT-Xent of two views                                              (SimCLR)
    joint       L = λ GA + MLM,     GA  = mean_i CE(<v_i, t_j> / tau) + mean_i CE(<t_i, v_j> / tau)

    t = unit( P_t(h_CLS) ),    Z = P_v(X),    v = unit( mean over positions of Z )

f and s are the findings and the impression of a report, by one encoder, and t the impression (the
findings, where there is none). X (h x w) is the last map of the image tower; P_v is applied at each
position, before the mean. Temperatures are fixed. Sentences of a section come in a new order each
time. BioViL-L adds a loss of words and positions (`local`) to the joint stage. Inference: the cosine
of t with unit Z at each position, under a Gaussian filter on the grid (`models.heat`).

local.py   loss of BioViL-L
sections.py   views of sections                  model.py   what is delivered
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.views import ImageView, MaskedTextView, View, augmentation
from diptych.errors import InputError, unknown
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.domain.biovil.local import local_alignment
from diptych.methods.domain.biovil.model import Reports, image_projection, text_projection
from diptych.methods.domain.biovil.sections import BothView, MaskedSectionView, SectionView
from diptych.methods.families.image_only import STRONG
from diptych.methods.families.pairs import SMALL
from diptych.methods.make import Make
from diptych.objectives import info_nce, nt_xent
from diptych.spec import NetworkSpec, NotNegative, Positive, Share
from diptych.towers.nn.heads import head
from diptych.towers.nn.parts import Temperature
from diptych.towers.nn.words import masked_losses, total

card = {
    "title": "Making the Most of Text Semantics to Improve Biomedical Vision-Language Processing",
    "year": 2022,
    "kind": "method",
    "entry": "BioViL",
    "provenance": "code",
    "abilities": {"fill": ""},
}

STAGES = ("language", "sections", "images", "joint")
_STREAMS = {
    "language": ("texts", "reports", "train"),
    "sections": ("reports", "train"),
    "images": ("images", "train"),
    "joint": ("train",),
}
"""The streams that a stage can read; it reads the first that is given."""

WIDTH = 128
IMAGE_PROJECTION = image_projection(WIDTH)
TEXT_PROJECTION = text_projection(WIDTH)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the stages.

    - `stages` are those to run, in this order: language, sections, images, joint.
    - `recipes` are differences from the run's recipe, by stage.
    - `findings` and `impression` are the roles of the two sections, `texts` that of the texts of
      the stage language.
    - `shuffle` draws the order of the sentences of a section anew each time.
    - `rate` is the share of masked words.
    - `tau` and `sections_tau` are the temperatures of the joint stage and of the sections.
    - `matching` and `sections_masking` weigh RSM and MLM of the stage sections, `alignment`,
      `masking` and `local` GA, MLM and the local loss of the joint stage. BioViL-L has local=1.
    - `image_projection` and `text_projection` are P_v and P_t, of a new model.
    - `projector` and `views_tau` are the head and the temperature of the stage images, `views` its
      augmentation; `augment` is that of the joint stage. None of them mirrors: reports name sides.
    """

    stages: tuple[str, ...] = STAGES
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    findings: str = "findings"
    impression: str = "impression"
    texts: str = "*"
    shuffle: bool = True
    rate: Share = 0.15
    tau: Positive = 0.5
    sections_tau: Positive = 0.5
    matching: NotNegative = 1.0
    sections_masking: NotNegative = 0.1
    alignment: NotNegative = 0.5
    masking: NotNegative = 1.0
    local: NotNegative = 0.0
    image_projection: NetworkSpec = IMAGE_PROJECTION
    text_projection: NetworkSpec = TEXT_PROJECTION
    projector: NetworkSpec = "mlp:hidden=2048:last_norm=scaled"
    views_tau: Positive = 0.1
    views: Mapping[str, Any] = field(default_factory=lambda: {**STRONG, "flip": False})
    augment: Mapping[str, Any] | None = field(
        default_factory=lambda: {"rotate": 20.0, "shear": 10.0, "colour": 0.2}
    )

    def __post_init__(self) -> None:
        if not self.stages or list(self.stages) != [each for each in STAGES if each in self.stages]:
            raise InputError(
                f"stages is {list(self.stages)}; give some of {', '.join(STAGES)}, in this order"
            )
        for stage in self.recipes:
            if stage not in STAGES:
                raise unknown("stage of recipes", stage, STAGES)
        for stage, weights in (
            ("sections", (self.matching, self.sections_masking)),
            ("joint", (self.alignment, self.masking, self.local)),
        ):
            if not any(weights):
                raise InputError(f"all losses of the stage {stage} have weight 0; leave it out")


class BioViL(Method):
    """Masked words, sections of reports, images alone, then images and reports."""

    Config = Config
    chunkable = False  # the batch norms of P_v and of the projector mix samples
    find_unused_parameters = True  # each stage trains other parts
    model: Reports

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        encoder = make.dual(
            logit_scale=Temperature(1 / config.tau, form="fixed"),
            pool="after",
            image_projection=config.image_projection,
            text_projection=config.text_projection,
        )
        if encoder.text is None:
            raise InputError("this method reads texts; start from a model with a text tower")
        if "image" not in encoder.sides and {"images", "joint"} & {*config.stages}:
            raise InputError(
                "there is no image tower; leave out the stages images and joint with "
                "--method.stages '[language, sections]'"
            )
        self.model = Reports(encoder, config.impression)
        make.go_on(self.model)
        self.augment = augmentation(config.augment)
        self.projector: nn.Module | None = None
        if "images" in config.stages:
            width = encoder.image.width
            self.projector = head(config.projector, width, encoder.embed_dim, "image")
        self.given = {stream for streams in _STREAMS.values() for stream in streams}

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "ground {run} IMAGE 'a phrase' --sigma 1.5",
            "evaluate {run} --data {data} --suite heatmaps",
        )

    def setup(self, sources: Mapping[str, Any]) -> None:
        self.given = set(sources)

    def stages(self) -> Sequence[Stage]:
        found = []
        for name in self.config.stages:
            given = [stream for stream in _STREAMS[name] if stream in self.given]
            streams = tuple(given[:1] or _STREAMS[name][-1:])
            found.append(
                Stage(name=name, streams=streams, recipe=self.config.recipes.get(name, {}))
            )
        return found

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        masked = {"tokenizer": self.make.tokenizer, "rate": config.rate, "whole_word": True}
        if stage.name == "language":
            return (MaskedTextView(name="masked", role=config.texts, **masked),)
        if stage.name == "images":
            preprocess = self.model.encoder.image.preprocess
            return (ImageView(preprocess=preprocess, augment=augmentation(config.views), count=2),)
        if stage.name == "sections":
            pair = (config.findings, config.impression)
            roles = {"findings": pair, "impression": pair[::-1]}
            own = [BothView(roles=pair)]
            weight = config.sections_masking
        else:
            roles = {"main": (config.impression, config.findings)}
            own = [ImageView(preprocess=self.model.encoder.image.preprocess, augment=self.augment)]
            weight = config.masking
        return (*own, *self._sections(roles, masked if weight else None))

    def _sections(
        self, roles: Mapping[str, tuple[str, str]], masked: Mapping[str, Any] | None
    ) -> Sequence[View]:
        """Views of sections by name, and of the same texts with masked words."""
        views: list[View] = []
        for name, pair in roles.items():
            how = {"role": ",".join(pair), "shuffle": self.config.shuffle}
            views.append(SectionView(name=name, tokenizer=self.make.tokenizer, **how))
            if masked is not None:
                like = f"texts.{name}"
                views.append(MaskedSectionView(name=f"{name}_masked", like=like, **how, **masked))
        return views

    def needs(self, stage: Stage, stream: str = "train") -> tuple[str, ...]:
        config = self.config
        found = super().needs(stage, stream)
        if stage.name != "joint" or "texts" in found:
            return found
        # the joint stage reads findings only where a report has no impression
        return tuple(name for name in found if name != f"texts.{config.findings}")

    def encode(self, batch: Batch, at: At) -> Features:
        masked = [name for name in batch.texts if name.endswith("masked")]
        encoder = self.model.encoder
        found: Features = {}
        if masked:
            assert encoder.text is not None
            predict = partial(masked_losses, self.model.words, encoder.text)
            found |= total([predict(batch.texts[name]) for name in masked])
        match at.stage:
            case "sections":
                for name in ("findings", "impression"):
                    found[name] = encoder.embed_texts(*batch.texts[name].flat)
            case "images":
                assert self.projector is not None
                pooled = encoder.encode_image(batch.image.flat).pooled
                found["views"] = self.projector(pooled).unflatten(0, (len(batch), -1))
            case "joint":
                found |= self._pairs(batch)
        return found

    def _pairs(self, batch: Batch) -> Features:
        encoder = self.model.encoder
        image = encoder.encode_image(batch.image.flat)
        text = encoder.encode_text(*batch.text.flat)
        found = {
            "image": normalize(encoder.image_vectors(image), dim=-1),
            "text": normalize(encoder.project_text(text.pooled), dim=-1),
        }
        if self.config.local:
            found["patches"] = normalize(encoder.project_image(image.patches), dim=-1)
            found["tokens"] = normalize(encoder.project_text(text.tokens), dim=-1)
        return found

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        config = self.config
        terms: dict[str, Tensor] = {}
        logged: dict[str, Tensor] = {}
        match at.stage:
            case "sections":
                both = batch.fields["both"]
                terms["matching"] = config.matching * matched(
                    features["findings"], features["impression"], both, config.sections_tau
                )
                weight = config.sections_masking
            case "images":
                one, other = normalize(features["views"], dim=-1).unbind(1)
                return Losses({"nt_xent": nt_xent(one, other, config.views_tau)})
            case "joint":
                scale = 1 / config.tau
                terms["alignment"] = config.alignment * info_nce(
                    features["image"], features["text"], scale, directions="sum"
                )
                if config.local:
                    there = self._words(batch)
                    terms["local"] = config.local * local_alignment(
                        features["patches"], features["tokens"], there, scale
                    )
                weight = config.masking
            case _:
                weight = 1.0
        if weight:
            words = features["words"].sum().clamp(min=1)
            terms["words"] = weight * features["word_loss"].sum() / words
            logged["words_right"] = features["words_right"].sum() / words
        return Losses(terms, logged)

    def _words(self, batch: Batch) -> Tensor:
        """Which tokens (B, L) of the texts are parts of words."""
        ids, lengths = batch.text.flat
        tokenizer = self.make.tokenizer
        at = torch.arange(ids.shape[1], device=ids.device)
        end = (lengths - len(tokenizer.after))[:, None]
        return (at >= len(tokenizer.before)) & (at < end)


def matched(findings: Tensor, impressions: Tensor, both: Tensor, tau: float) -> Tensor:
    """RSM: the symmetric cross-entropy, as a sum, of the sections (B, E) of the reports that have
    `both` (B,); 0 if fewer than two have.

    >>> x = torch.eye(2)
    >>> round(float(matched(x, x, torch.tensor([True, True]), 0.5)), 6)
    0.253856
    """
    if int(both.sum()) < 2:
        return 0.0 * (findings.sum() + impressions.sum())
    return info_nce(findings[both], impressions[both], 1 / tau, directions="sum")


BioViL.presets = {
    "small": replace(
        SMALL,
        config={
            "views": {"crop": (0.3, 1.0), "colour": (0.4, 0.4, 0.0, 0.0)},
            "augment": {"crop": (0.8, 1.0), "colour": 0.2},
            "projector": "mlp:hidden=256:last_norm=scaled",
            "views_tau": 0.5,
            "recipes": {"language": {"epochs": 5.0}, "images": {"epochs": 10.0}},
        },
        text="text:width=128:depth=2:heads=4:causal=false:pooling=first:dropout=0.1",
        tokenizer="wordpiece:vocab_size=2048:context=96",
        embed_dim=WIDTH,
    ),
    "paper": Preset(
        config={"recipes": {"language": {"lr": 4e-4}, "images": {"lr": 1e-3, "epochs": 100.0}}},
        image="timm:resnet50:image_size=480:margin=1.0667:mean=(0.0,0.0,0.0):std=(1.0,1.0,1.0)",
        text="hf:model_type=bert:width=768:depth=12:heads=12:dropout=0.25:pooling=first",
        tokenizer="wordpiece:vocab_size=30522:context=512",
        embed_dim=WIDTH,
        recipe=Recipe(lr=2e-5, warmup=0.03, epochs=50, batch_size=80, precision="bfloat16"),
    ),
}
