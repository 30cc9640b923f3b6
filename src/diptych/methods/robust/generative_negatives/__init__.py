"""Generative Negative Mining: Enhancing Multimodal Compositional Reasoning of Visual Language Models
with Generative Negative Mining (Sahin et al., WACV 2024).

One object of an image is replaced by another, in the image and in its caption. Such variations of
one item share a batch, where they are hard negatives of each other in both modalities; the loss is
CLIP's on all pairs of the batch, those of variations and those of ordinary images alike.

    group of an item (more than m variations): m of them without replacement,
        p_i = (itm_i - min itm + 0.5) / sum_j (itm_j - min itm + 0.5)
    L = 1/2 [ CE(s X Y^T, diagonal) + CE(s Y X^T, diagonal) ]

itm_i is the mean match score of a variation's captions. Variations with itm at most 0, or from items
whose variations differ in at most 14 % of the pixels, are left out. Inference is CLIP's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.batch import Batch, Tokens
from diptych.data.plan import Grouped, Plan, Shuffled
from diptych.data.sample import Source, labels_of
from diptych.data.views import LabelView, View
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Preset, Recipe, Stage
from diptych.methods.families.pairs import tune
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.pretrain.clip import Config as ClipConfig
from diptych.objectives import info_nce
from diptych.spec import Count, ShareBelowOne

card = {
    "title": "Enhancing Multimodal Compositional Reasoning of Visual Language Models with Generative Negative Mining",
    "year": 2023,
    "kind": "method",
    "entry": "GenerativeNegatives",
    "provenance": "code",
}

STREAMS = ("train", "pairs")
GROUP = "group"
"""The field with the group of each variation."""


@dataclass(frozen=True, kw_only=True)
class Config(ClipConfig):
    """Options beside CLIP's; the stream `train` has variations, `pairs` ordinary pairs.

    - `group` is the label that variations of one item share; "" puts each variation by itself, as
      in the control `allinone` of the published code.
    - `variations` of a group share a batch.
    - `share` is the share of the batch that variations have; the rest are ordinary pairs. Without
      the stream `pairs` the batch has variations alone.
    - `edited` is what varies: "both" images and captions, or "texts", where of the variations of a
      group that share a batch only the first keeps its image, and the captions of the others are
      negatives of all images and need no image themselves.
    - `itm` and `iva` are labels of the match score and of the area in percent, which choose what is
      kept (`min_itm`, `min_iva`, both exclusive); None if the data have none.
    """

    group: str = "item"
    variations: Count = 2
    share: ShareBelowOne = 0.2
    edited: Literal["both", "texts"] = "both"
    itm: str | None = "itm"
    iva: str | None = "iva"
    min_itm: float = 0.0
    min_iva: float = 14.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.edited == "texts" and (not self.group or self.duplicates != "apart"):
            raise InputError(
                "edited=texts makes captions of a group negatives of its image; give a group, and leave out duplicates"
            )


class GenerativeNegatives(CLIP):
    """CLIP's loss on batches in which variations of an item meet."""

    Config = Config
    test_options: ClassVar[Mapping[str, Any]] = {
        "min_itm": -1.0,
        "min_iva": -1.0,
        "share": 0.5,
        "variations": 2,  # of four a narrow model memorises just too few
    }

    def __init__(self, config: Config, make: Any):
        super().__init__(config, make)
        self.streams: tuple[str, ...] = STREAMS

    def setup(self, sources: Mapping[str, Any]) -> None:
        self.streams = tuple(name for name in STREAMS if name in sources)

    def stages(self) -> Sequence[Stage]:
        config = self.config
        (stage,) = super().stages()
        plan: Plan = Shuffled()
        if config.group:
            plan = Grouped(config.group, max_samples=config.variations, score=config.itm)
        if self.streams == ("train",):
            return (replace(stage, plan=plan),)
        return (
            replace(
                stage,
                streams=STREAMS,
                plan={"train": plan, "pairs": Shuffled()},
                share={"train": config.share, "pairs": 1 - config.share},
                min_batch=1,
            ),
        )

    def needs(self, stage: Stage, stream: str = "train") -> tuple[str, ...]:
        scores = (self.config.itm, self.config.iva) if stream == "train" else ()
        own = (f"labels.{label}" for label in scores if label is not None)
        return tuple(dict.fromkeys((*super().needs(stage, stream), *own)))

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        if stream != "train":
            return source
        kept = np.ones(len(source), bool)
        for label, least in (
            (self.config.itm, self.config.min_itm),
            (self.config.iva, self.config.min_iva),
        ):
            if label is not None:
                kept &= labels_of(source, label) > least
        if not kept.any():
            raise InputError(
                f"no variation of {source.name} has {self.config.itm} above {self.config.min_itm:g} and "
                f"{self.config.iva} above {self.config.min_iva:g}; lower --method.min_itm or --method.min_iva"
            )
        return source if kept.all() else Wrapped(source, np.flatnonzero(kept))

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        views = super().views(stage, stream)
        if self.config.edited == "both" or stream != "train":
            return views
        return (*views, LabelView(label=self.config.group, name=GROUP))

    def encode(self, batch: Any, at: At) -> Features:
        found: Features = {}
        for encode in self.parts().values():
            found |= encode(batch, at)
        return found

    def parts(self) -> Mapping[str, Callable[[Any, At], Features]]:
        return {name: _of_streams(encode) for name, encode in super().parts().items()}

    def loss(self, features: Features, batch: Any, at: At) -> Losses:
        if not isinstance(batch, Mapping):
            return self._loss(features, batch, at)
        names = ("image", *(f"text{end}" for end in self.roles))
        joined = {
            name: torch.cat([features[f"{stream}.{name}"] for stream in batch]) for name in names
        }
        return self._loss(joined, _joined(list(batch.values())), at)

    def _loss(self, features: Features, batch: Batch, at: At) -> Losses:
        """CLIP's, in which the images of some variations may be no rows."""
        if self.config.edited == "both":
            return super().loss(features, batch, at)
        own = _firsts(batch.fields[GROUP])
        image = features["image"][own]
        scale = self.model.logit_scale()
        found = [
            info_nce(
                image,
                text[own],
                scale,
                text_keys=torch.cat([text[own], text[~own]]),
                image_keys=image,
            )
            for text in (features[f"text{end}"] for end in self.roles)
        ]
        return Losses({"contrastive": torch.stack(found).mean()}, self.logged(features))


def _firsts(groups: Tensor) -> Tensor:
    """Whether each sample (B,) is the first of its group; those without one (-1) are.

    >>> _firsts(torch.tensor([4, 4, -1, 7, 4, -1])).tolist()
    [True, False, True, True, False, True]
    """
    same = groups[:, None] == groups[None]
    return (groups < 0) | ~same.tril(diagonal=-1).any(1)


def _of_streams(encode: Callable[[Batch, At], Features]) -> Callable[[Any, At], Features]:
    """Return `encode` for a batch, or for one of each stream, whose features get its name."""

    def each(batch: Any, at: At) -> Features:
        if not isinstance(batch, Mapping):
            return encode(batch, at)
        return {
            f"{stream}.{name}": value
            for stream, part in batch.items()
            for name, value in encode(part, at).items()
        }

    return each


def _joined(batches: Sequence[Batch]) -> Batch:
    """Return the texts, groups and keys of several batches as one."""
    texts = {}
    for name in batches[0].texts:
        own = [batch.texts[name] for batch in batches]
        longest = max(tokens.ids.shape[-1] for tokens in own)
        ids = [F.pad(tokens.ids, (0, longest - tokens.ids.shape[-1])) for tokens in own]
        texts[name] = Tokens(torch.cat(ids), torch.cat([tokens.lengths for tokens in own]))
    groups = [
        batch.fields.get(GROUP, torch.full((len(batch.keys),), -1)) for batch in batches
    ]  # ordinary pairs have none
    fields = {GROUP: torch.cat([each.to(groups[0]) for each in groups])}
    keys = [key for batch in batches for key in batch.keys]
    return Batch(texts=texts, fields=fields, keys=keys)


GenerativeNegatives.presets = {
    "small": replace(
        CLIP.presets["small"],
        config={**CLIP.presets["small"].config, "variations": 4, "share": 0.75},
    ),
    "paper": Preset(
        config={"augment": None, "duplicates": "apart"},
        image=CLIP.presets["paper"].image,
        text=CLIP.presets["paper"].text,
        tokenizer="clip",
        embed_dim=512,
        recipe=Recipe(
            optimizer="adam",
            lr=1e-6,
            betas=(0.9, 0.98),
            eps=1e-6,
            weight_decay=0.1,
            epochs=10,
            batch_size=200,
        ),
    ),
}
GenerativeNegatives.presets = {
    **GenerativeNegatives.presets,
    "tune": tune(GenerativeNegatives.presets["small"]),
}
