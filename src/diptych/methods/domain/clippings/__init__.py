"""CLIPPINGS: Linking Representations with Multimodal Contrastive Learning (2023, arXiv 2304.03464;
later titled Record Linkage with Multimodal Contrastive Learning).

A record is the crop of an image with the text that was read in it. Records of one entity, such as a
firm, are to be near each other, without a list of entities.

    pairs      CLIP's loss on the images and texts of records; equal texts are used once
    records    z_i = unit(w x_i + (1 - w) y_i),   x, y unit vectors of image and text

    L_i = -1/|P(i)| Σ_{p in P(i)} log [ exp(z_i·z_p / tau) / Σ_{a≠i} exp(z_i·z_a / tau) ],   L = mean of L_i

P(i) are the other records of i's entity in the batch; a record without any is no anchor. Batches are
made of hard negatives: before the stage one record of each entity is embedded, and each entity is
put together with its k - 1 nearest ones, m random records of each. Inference: a record belongs to
the entity of its nearest exemplar, if that is near enough; records without exemplars are clustered
(suite `linkage`).

records.py    what is delivered
pairwise.py   the contrastive loss of pairs, an alternative
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.plan import Mined, PerClass, Plan
from diptych.data.sample import BadSample, Source, labels_of
from diptych.data.views import LabelView, View
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.domain.clippings.pairwise import pairwise
from diptych.methods.domain.clippings.records import Records
from diptych.methods.families.pairs import SMALL, Pairs, tune
from diptych.methods.make import Make
from diptych.methods.pretrain.clip import Config as ClipConfig
from diptych.metrics import nearest
from diptych.objectives import info_nce, supervised
from diptych.spec import AtLeast, Count, Positive, Share
from diptych.towers.dual import DualEncoder, pooled
from diptych.towers.nn.parts import Temperature

card = {
    "title": "Linking Representations with Multimodal Contrastive Learning",
    "year": 2023,
    "kind": "method",
    "entry": "Clippings",
    "provenance": "code",
}

STAGES = ("pairs", "records")
NEAR = "nearest_entities"
"""The column of each anchor's nearest entities."""


@dataclass(frozen=True, kw_only=True)
class Config(ClipConfig):
    """Options beside CLIP's, which are those of the stage of pairs.

    - `order` is the order of the stages, "pairs" and "records", or one of them.
    - `pairs_from` is the stream of the stage of pairs, if not that of the records; it needs no label.
    - `label` is the entity of a record; records without one (-1) are left out of the stage of
      records.
    - `weight` is that of the image, w; 1 trains on images alone and 0 on texts alone.
    - `loss` is "supcon", at the temperature `tau`, or "pairwise", with the margins `positive` and
      `negative` of distances.
    - `negatives` are "hard", blocks of the `nearest` entities (k, an entity's own included) with
      `each` records (m); or "random", `each` records of random entities.
    - `mine_again` finds the nearest entities anew before each epoch.
    - `rate` multiplies the recipe's learning rate in the stage of records.
    - `pad` pads images to squares with the median colour of their border, in place of a crop.
    - `select` ends the stage of pairs with the epoch of the least loss on `--val`.
    """

    order: tuple[Literal["pairs", "records"], ...] = STAGES
    pairs_from: str = "train"
    label: str = "entity"
    weight: Share = 0.5
    loss: Literal["supcon", "pairwise"] = "supcon"
    tau: Positive = 0.1
    positive: float = 0.0
    negative: float = 0.5
    negatives: Literal["hard", "random"] = "hard"
    nearest: Annotated[int, AtLeast(2)] = 3
    each: Count = 3
    mine_again: bool = False
    rate: Positive = 1.0
    pad: bool = True
    select: bool = False

    several: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.order or len(set(self.order)) < len(self.order):
            raise InputError(
                f"order is {list(self.order)}; it must be pairs, records or both, each once"
            )


class Clippings(Pairs):
    """A dual encoder trained on pairs, then on records of entities."""

    Config = Config
    test_options: ClassVar[dict[str, Any]] = {"nearest": 2, "each": 2, "select": False}
    features_from = Method.features_from  # the loss reads entities, which no other method gives

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        scale = Temperature(config.scale, clamp=(1.0, config.max_scale))
        self.records = Records(
            make.dual(logit_scale=scale), config.weight, config.label, config.role
        )
        tower = self.model.image
        if config.pad:
            tower.preprocess = replace(
                tower.preprocess, resize="longest", fill="border", margin=None
            )

    @property
    def model(self) -> DualEncoder:  # type: ignore[override]
        """The dual encoder."""
        return self.records.encoder

    @classmethod
    def next_steps(cls, options: Any) -> Sequence[str]:
        return (
            "evaluate {run} --data {data} --suite linkage",
            "link {run} TARGETS QUERIES",
            "cluster {run} {data} --val VALIDATION",
        )

    def stages(self) -> Sequence[Stage]:
        config = self.config
        pairs = config.stage(self.model)
        scale = {
            f"records.encoder{name.removeprefix('model')}": rate
            for name, rate in pairs.lr_scale.items()
        }
        slower = {name: rate * config.rate for name, rate in {"records": 1.0, **scale}.items()}
        hard = config.negatives == "hard"
        plan: Plan = (
            Mined(config.label, NEAR, config.each) if hard else PerClass(config.label, config.each)
        )
        stages = {
            "pairs": replace(
                pairs,
                name="pairs",
                streams=(config.pairs_from,),
                lr_scale=scale,
                select="-val/pair_loss" if config.select else None,
            ),
            "records": Stage(
                name="records",
                plan=plan,
                lr_scale={**slower, "records.encoder.logit_scale": 0.0},
                prepare=self._mine if hard else None,
                every="epoch" if hard and config.mine_again else "stage",
            ),
        }
        return [stages[name] for name in config.order]

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        if stage.name != "pairs":
            return source
        kept = _different(source, self.config.role)
        return source if len(kept) == len(source) else Wrapped(source, kept)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        views = super().views(stage, stream)
        if stage.name == "pairs":
            return views
        return (*views, LabelView(label=self.config.label, name="entity"))

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        if at.stage == "pairs":
            return super().loss(features, batch, at)
        config = self.config
        z = pooled(features["image"], features["text"], config.weight)
        entity: Tensor = batch.fields["entity"]
        if config.loss == "supcon":
            return Losses({"supervised": supervised(z[None], entity, config.tau)})
        return Losses({"pairwise": pairwise(z, entity, config.positive, config.negative)})

    def terms(self, image: Tensor, text: Tensor, **equal: Any) -> dict[str, Tensor]:
        return {"contrastive": info_nce(image, text, self.model.logit_scale(), **equal)}

    def _mine(self, run: Any) -> None:
        """Find the nearest entities of each, by the first of its records."""
        config = self.config
        source = run.sources["train"]
        labels = labels_of(source, config.label)
        entities, firsts = np.unique(labels, return_index=True)
        firsts = firsts[entities >= 0]
        entities = entities[entities >= 0]
        if len(entities) < config.nearest:
            raise InputError(
                f"{source.name} has {len(entities)} values of labels.{config.label}, and hard negatives are put "
                f"together with {config.nearest - 1} others; lower --method.nearest"
            )

        def embedded(batch: Batch) -> Features:
            features = self.encode(batch, run.at)
            return {"z": pooled(features["image"], features["text"], config.weight)}

        views = super().views(Stage(), "train")
        z = run.map(embedded, views, Wrapped(source, firsts))["z"]
        near = np.full((len(source), config.nearest), -1)
        near[firsts] = entities[with_own_first(nearest(z, z, config.nearest)[0])]
        run.store("train", {NEAR: near})

    def deliver(self) -> Records:
        return self.records


def with_own_first(near: np.ndarray) -> np.ndarray:
    """Each row's nearest rows (N, k) with its own first, in place of the last if it is not among
    them.

    >>> with_own_first(np.array([[0, 1], [0, 1], [0, 1]])).tolist()
    [[0, 1], [1, 0], [2, 0]]
    """
    own = np.arange(len(near))[:, None]
    others = np.argsort(near == own, axis=1, kind="stable")[:, : near.shape[1] - 1]
    return np.concatenate([own, np.take_along_axis(near, others, 1)], 1)


def _different(source: Source, role: str) -> np.ndarray:
    """The first row of each text; rows that cannot be read stay, so that the loader counts them."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for index in range(len(source)):
        try:
            texts = tuple(source[index].captions(role))
        except BadSample:
            kept.append(index)
            continue
        if texts not in seen:
            kept.append(index)
            seen.add(texts)
    return np.array(kept, np.int64)


Clippings.presets = {
    "small": replace(
        SMALL,
        config={"augment": None, "scale": 5.0},
        image="conv:image_size=64:widths=(48,96,192):depths=(1,1,1):pooling=max",
        tokenizer="bpe:vocab_size=512:context=48",
    ),
    "paper": Preset(
        config={"augment": None, "rate": 1e-3, "select": True},
        image="vit:image_size=224:patch=32:width=768:depth=12:heads=12:pre_norm=true:activation=quick_gelu",
        text="text:width=512:depth=12:heads=8:activation=quick_gelu",
        tokenizer="clip",
        embed_dim=512,
        recipe=Recipe(
            lr=5e-6,
            weight_decay=0.001,
            schedule="restarts:first=10:times=2",
            warmup=0,
            batch_size=153,
        ),
    ),
}
Clippings.presets = {
    **Clippings.presets,
    "tune": tune(Clippings.presets["small"], augment=None),
}
