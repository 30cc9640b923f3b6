"""CLIP-rocket: Improved baselines for vision-language pre-training (Fini et al., TMLR 2023).

CLIP with weak and strong augmentations of images and texts, a second head for the strong ones,
label smoothing and text dropout. This "improved recipe" reaches without non-contrastive losses what
they seemed to add to CLIP. z are unit vectors of the linear head on the weak pair, h_a those of the
MLP head on strong view a of K:

    global   g_I = CE(s z_I z_T^T),   local   l_I = mean_{a,b} CE_e(s' h_I^a h_T^bT)
    L = ½ Σ_{I,T} (g + K l) / (1 + K)                                                     K = 0: plain CLIP

`extra` adds one of the losses that the paper compares: SLIP, SiamLIP, BYOLIP, BarLIP, SwALIP.
Inference: the cosine of both heads, share · cos z + (1 - share) · cos h; texts and images are not
augmented.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, normalize

from diptych.data.batch import Batch
from diptych.data.views import Augment, ImageView, VariedTextView, View, augmentation
from diptych.errors import InputError, unknown
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.families import image_only as images
from diptych.methods.families.pairs import SMALL, PairConfig, tune
from diptych.methods.make import Make
from diptych.methods.tuning import keep_statistics
from diptych.objectives import nt_xent, pair_losses
from diptych.objectives.noncontrastive import assignment_loss, negative_cosine, redundancy, sinkhorn
from diptych.spec import AtLeast, Dropout, Positive, Share, Width, configure
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.heads import TwoHeads, head
from diptych.towers.nn.parts import Momentum, Temperature

card = {
    "title": "Improved baselines for vision-language pre-training",
    "year": 2023,
    "kind": "method",
    "entry": "CLIPRocket",
    "provenance": "code",
}

EXTRAS = {  # hidden width, width, layers and last norm of the projectors; weight of the loss
    "none": (0, 0, 0, "none", 0.0),
    "slip": (4096, 256, 3, "none", 1.0),
    "siamlip": (2048, 128, 2, "plain", 1.0),
    "byolip": (2048, 128, 2, "plain", 1.0),
    "barlip": (3000, 8192, 3, "affine", 0.025),
    "swalip": (0, 0, 0, "none", 0.2),
}
STRONG: Mapping[str, Any] = {**images.STRONG, "colour": (0.4, 0.4, 0.4, 0.1)}


@dataclass(frozen=True, kw_only=True)
class Config(PairConfig):
    """Options of the views, the two heads and the extra loss.

    - `augment` and `strong` are the weak and strong image augmentations; `local` is K.
    - `stop_words` is the probability that a text loses its stop words; `synonyms` is the table for
      strong texts (`data.eda`).
    - `smoothing` is the label smoothing of the local terms.
    - `text_dropout` is the dropout before each block in the strong pass; `drop_path` is the share
      of texts that skip a block there (whole blocks, all but the last [choice]).
    - `scale` and `local_scale` are learned, up to `max_scale`.
    - `hidden` is the width of the second head; `extra_hidden` and `extra_width` are the widths of
      the extra loss's projectors, None as published.
    - `strong_heads` gives the strong views separate projectors and predictors.
    - `weight` is the weight of the extra loss, `momentum` the momentum of BYOLIP.
    """

    augment: Mapping[str, Any] = field(default_factory=lambda: {"crop": (0.5, 1.0)})
    strong: Mapping[str, Any] = field(default_factory=lambda: dict(STRONG))
    local: Annotated[int, AtLeast(0)] = 2
    stop_words: Share = 0.8
    synonyms: str = "common"
    smoothing: Share = 0.1
    text_dropout: Dropout = 0.0
    drop_path: Share = 0.0
    scale: Positive = 1 / 0.07
    local_scale: Positive = 10.0
    max_scale: Positive = 100.0
    hidden: Width = 4096
    reduction: Literal["mean", "sum"] = "mean"
    extra: str = "none"
    extra_hidden: Width | None = None
    extra_width: Width | None = None
    strong_heads: bool = False
    weight: float | None = None
    momentum: Share = 0.99

    several: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extra not in EXTRAS:
            raise unknown("extra loss of cliprocket", self.extra, EXTRAS)
        if self.extra in ("slip", "swalip") and self.local != 2:
            raise InputError(
                f"{self.extra} is made for two strong views, not {self.local}; set local=2"
            )
        if self.extra != "none" and self.local not in (0, 2):
            raise InputError(
                f"{self.extra} is made for no or two strong views, not {self.local}; set local=2 or local=0"
            )
        if self.extra == "swalip" and self.smoothing:
            raise InputError("swalip takes no label smoothing; set smoothing=0")
        if self.strong_heads and (self.extra in ("none", "slip", "swalip") or not self.local):
            raise InputError(
                f"strong_heads are those of siamlip, byolip and barlip beside weak ones; {self.extra} "
                f"with local={self.local} has none"
            )


class CLIPRocket(Method):
    """Weak pairs through one head, strong pairs through another, and an optional extra loss."""

    Config = Config
    chunkable = False  # batch norm in the second head mixes samples
    model: DualEncoder

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.augment = augmentation(config.augment)
        self.strong = configure(Augment, dict(config.strong), "strong")
        both = f"two:hidden={config.hidden}" + (
            "" if config.local else ":share=1.0"
        )  # without strong views the second head is not trained
        self.model = make.dual(
            logit_scale=Temperature(config.scale, clamp=(1.0, config.max_scale)),
            image_projection=both,
            text_projection=both,
        )
        for name in ("image_projection", "text_projection"):
            if not isinstance(getattr(self.model, name), TwoHeads):
                raise InputError(
                    "cliprocket trains models with two heads; start from a run of its own, or from scratch"
                )
        if config.local:
            self.local = Temperature(config.local_scale, clamp=(1.0, config.max_scale))
        else:  # plain CLIP: the second head is frozen
            for parameter in (
                *self._image_heads.second.parameters(),
                *self._text_heads.second.parameters(),
            ):
                parameter.requires_grad_(False).frozen = True  # type: ignore[attr-defined]
        heads = [
            self._extra_heads() for _ in range(1 + config.strong_heads)
        ]  # for the weak views, for the strong ones
        self.projectors = nn.ModuleList([projectors for projectors, _ in heads if len(projectors)])
        self.predictors = nn.ModuleList([predictors for _, predictors in heads if len(predictors)])
        if config.extra == "byolip":
            self.slow = Momentum(nn.ModuleList([self.model, self.projectors]), config.momentum)

    @property
    def _image_heads(self) -> TwoHeads:
        assert isinstance(self.model.image_projection, TwoHeads)
        return self.model.image_projection

    @property
    def _text_heads(self) -> TwoHeads:
        assert isinstance(self.model.text_projection, TwoHeads)
        return self.model.text_projection

    def _extra_heads(self) -> tuple[nn.ModuleList, nn.ModuleList]:
        """Return the projectors of images and texts, and the predictors behind them."""
        config = self.config
        hidden, width, layers, norm, _ = EXTRAS[config.extra]
        if not width:
            return nn.ModuleList(), nn.ModuleList()
        hidden = config.extra_hidden or hidden
        width = config.extra_width or width
        spec = f"mlp:hidden={hidden}:layers={layers}:last_norm={norm}"
        assert self.model.text is not None
        widths = [self.model.image.width] + (
            [] if config.extra == "slip" else [self.model.text.width]
        )
        projectors = [head(spec, own, width, "extra") for own in widths]
        behind = (
            f"mlp:hidden={hidden}:last_bias=true" if config.extra in ("siamlip", "byolip") else ""
        )
        predictors = [head(behind, width, width, "extra") for _ in widths if behind]
        return nn.ModuleList(projectors), nn.ModuleList(predictors)

    def stages(self) -> Sequence[Stage]:
        return (self.config.stage(self.model),)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.config.keep_statistics:
            keep_statistics(self.model.image, self.model.text)
        return self

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        preprocess = self.model.image.preprocess
        words = {
            "tokenizer": self.make.tokenizer,
            "role": config.role,
            "stop_words": config.stop_words,
        }
        views: list[View] = [
            ImageView(preprocess=preprocess, augment=self.augment),
            VariedTextView(**words),
        ]
        if config.local:
            views += [
                ImageView(
                    preprocess=preprocess, name="strong", augment=self.strong, count=config.local
                ),
                VariedTextView(
                    **words,
                    name="strong",
                    strong=True,
                    synonyms=config.synonyms,
                    count=config.local,
                ),
            ]
        return views

    def encode(self, batch: Batch, at: At) -> Features:
        count = len(batch)
        image, text = self._pooled(self.model, batch, "main")
        found = {
            "image": normalize(self._image_heads.first(image), dim=-1),
            "text": normalize(self._text_heads.first(text), dim=-1),
        }
        views = [(image, text)]
        if self.config.local:
            views.append(self._pooled(self.model, batch, "strong"))
            heads = {"image": self._image_heads.second, "text": self._text_heads.second}
            for (side, second), strong in zip(heads.items(), views[1], strict=True):
                found[f"local_{side}"] = normalize(second(strong), dim=-1).unflatten(0, (count, -1))
        return {**found, **self._projected(batch, views)} if self.projectors else found

    def _pooled(self, model: Any, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
        """Return the pooled outputs of both towers for a view, before the heads; texts of strong
        views under dropout."""
        options: dict[str, Any] = {}
        if (
            name == "strong"
            and self.training
            and (self.config.text_dropout or self.config.drop_path)
        ):
            options["edit"] = Thinned(self.config.text_dropout, self.config.drop_path)
        image = model.encode_image(batch.images[name].flat).pooled
        return image, model.encode_text(*batch.texts[name].flat, **options).pooled

    def _projected(self, batch: Batch, views: Sequence[tuple[Tensor, Tensor]]) -> Features:
        """Return for each side the projections (B, 1 + K, D) of weak and strong views, and the
        predictions from them."""
        count = len(batch)
        found = {}

        def through(heads: Any, views: Sequence[tuple[Tensor, Tensor]], at: int) -> Tensor:
            by_kind = [pair[at].unflatten(0, (count, -1)) for pair in views]
            if len(heads) == 1:  # weak and strong views share them
                return heads[0][at](torch.cat(by_kind, 1))
            return torch.cat([own[at](mine) for own, mine in zip(heads, by_kind, strict=True)], 1)

        for side, at in (("image", 0), ("text", 1))[: len(self.projectors[0])]:  # type: ignore[arg-type]
            found[f"v_{side}"] = through(self.projectors, views, at)
            if self.predictors:
                kinds = found[f"v_{side}"].split((1, self.config.local), 1)[: len(views)]
                found[f"p_{side}"] = through(
                    self.predictors, [(kind.flatten(0, 1),) * 2 for kind in kinds], at
                )
        if self.config.extra == "byolip":
            model, projectors = self.slow.module  # type: ignore[misc]
            with torch.no_grad():
                slow = [
                    self._pooled(model, batch, name) for name in ("main", "strong")[: len(views)]
                ]
                for side, at in (("image", 0), ("text", 1)):
                    found[f"v_{side}"] = through(projectors, slow, at)
        return found

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        config = self.config
        K = self.config.local
        scale = self.model.logit_scale()
        terms = {}
        image = features["image"]
        text = features["text"]
        factor = (1 if config.reduction == "sum" else 0.5) / (1 + K)
        terms["global"] = factor * (_ce(image, text, scale) + _ce(text, image, scale))
        logged: dict[str, Tensor | float] = {"scale": scale}
        if K:
            images = features["local_image"].unbind(1)
            texts = features["local_text"].unbind(1)
            local = [
                _ce(one, other, self.local(), config.smoothing)
                + _ce(other, one, self.local(), config.smoothing)
                for one, other in product(images, texts)
            ]
            terms["local"] = factor * K * torch.stack(local).mean()
            logged["local_scale"] = self.local()
        if config.extra != "none":
            weight = EXTRAS[config.extra][-1] if config.weight is None else config.weight
            terms[config.extra] = weight * self._extra(features)
        return Losses(terms, logged)

    def _extra(self, features: Features) -> Tensor:
        """Return the extra loss before its weight."""
        name = self.config.extra
        if name == "swalip":
            return swapped(features["local_image"], features["local_text"], self.local())
        image = features["v_image"].unbind(1)
        if name == "slip":  # the two strong images
            one, other = (normalize(view, dim=-1) for view in image[1:])
            return nt_xent(one, other, 0.1)
        text = features["v_text"].unbind(1)
        strong = range(1, 1 + self.config.local)
        views = [(0, 0), *product(strong, strong)]  # weak with weak, strong with strong
        if name == "barlip":
            return torch.stack([redundancy(image[a], text[b]) for a, b in views]).mean()
        of_image = features["p_image"].unbind(1)
        of_text = features["p_text"].unbind(1)
        both = [
            negative_cosine(of_image[a], text[b]) + negative_cosine(of_text[b], image[a])
            for a, b in views
        ]
        return torch.stack(both).mean() / 2

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        if self.config.extra == "byolip":
            self.slow.update()


class Thinned:
    """The edit of the strong text pass: dropout of the residual stream at the input of each block,
    and a share of the texts skips whole blocks; the outputs that are kept are scaled up."""

    def __init__(self, rate: float, drop_path: float):
        self.rate = rate
        self.drop_path = drop_path
        self.before: Tensor | None = None

    def __call__(self, layer: int, tokens: Tensor) -> Tensor:
        if self.before is not None and self.drop_path:
            kept = dropout(torch.ones_like(tokens[:, :1, :1]), self.drop_path)
            tokens = self.before + kept * (tokens - self.before)
        self.before = dropout(tokens, self.rate)
        return self.before


def _ce(rows: Tensor, columns: Tensor, scale: Tensor | float, smoothing: float = 0.0) -> Tensor:
    return pair_losses(rows, columns, scale, smoothing=smoothing).mean()


def swapped(image: Tensor, text: Tensor, scale: Tensor | float) -> Tensor:
    """SwALIP: the batch of the other side serves as prototypes, and each pair of views predicts the
    assignment of the other two, both indices swapped. image, text (B, 2, E), unit vectors."""
    scores = {(a, b): image[:, a] @ text[:, b].T for a, b in product((0, 1), (0, 1))}
    terms = []
    for (a, b), mine in scores.items():
        other = scores[1 - a, 1 - b]
        by_image = assignment_loss(mine, sinkhorn(other), scale)
        terms.append((by_image + assignment_loss(mine.T, sinkhorn(other.T), scale)) / 2)
    return torch.stack(terms).mean()


_FEW: Mapping[str, Any] = {"hidden": 256, "extra_hidden": 256, "extra_width": 128}

CLIPRocket.presets = {
    "small": replace(
        SMALL,
        config={
            **_FEW,
            "scale": 5.0,
            "local_scale": 5.0,
            "text_dropout": 0.05,
            "augment": {"crop": (0.5, 1.0), "ramp": (0.06, 0.6)},
            "strong": {**STRONG, "crop": (0.3, 1.0), "ramp": (0.06, 0.6)},
        },
        embed_dim=384,
    ),
    "paper": Preset(
        config={"text_dropout": 0.2, "hidden": 4096},
        image="timm:resnet50:image_size=224",
        text="text:width=512:depth=6:heads=8",
        tokenizer="clip",
        embed_dim=512,
        recipe=Recipe(
            lr=3e-3,
            eps=1e-8,
            weight_decay=0.5,
            warmup=1 / 32,
            min_lr=1 / 300,
            epochs=32,
            batch_size=4096,
            precision="bfloat16",
        ),
    ),
}
CLIPRocket.presets = {**CLIPRocket.presets, "tune": tune(CLIPRocket.presets["small"])}
