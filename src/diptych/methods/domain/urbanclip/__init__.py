"""UrbanCLIP: Learning Text-enhanced Urban Region Profiling with Contrastive Language-Image Pretraining
from the Web (Yan et al., WWW 2024).

A model writes captions of satellite tiles, a filter drops sentences that say nothing of the tile
(`refine`), and an encoder learns from tiles and captions by CoCa's two losses, as in open_clip:

    Z = pooler(X),   x = unit(W Z_1),   t = unit(V u_CLS)
    L = a / 2 [ CE(s x T^T, diagonal) + CE(s t X^T, diagonal) ]
        - b sum_batch sum_k log p(y_k | y_<k, Z_2…) / number of these tokens,      a = b = 1

One layer of attention of learned queries reads the tokens X of the image; the first query gives the
vector x, the others Z_2… are what the decoder reads. Of the captions of a tile one is drawn before
training and kept (`drawn.OneCaption`). The weights of the epoch with the least contrastive loss on
validation tiles are delivered. Indicators of places are then predicted from the frozen vector x
(`regress`); captions are written by the decoder.

Two forms: that of open_clip (`decoder=apart`), whose weights the authors start from, and the authors'
own (`decoder=parallel` with the text tower `urbanclip.parallel`), see `parallel`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from diptych.data.views import TextView, View
from diptych.methods.base import Preset, Recipe, Stage
from diptych.methods.domain.urbanclip.drawn import DRAWN, OneCaption
from diptych.methods.domain.urbanclip.parallel import FORM, ParallelLM, ParallelTower
from diptych.methods.families.captions import CaptionsConfig, PairsWithCaptions, writes
from diptych.methods.families.pairs import SMALL, tune
from diptych.methods.make import Make
from diptych.models.delivered import Validation
from diptych.models.multimodal import ContrastiveCaptioner, MultimodalLM
from diptych.objectives import info_nce
from diptych.rng import generator
from diptych.spec import NetworkSpec
from diptych.towers.nn.parts import Temperature, freeze

card = {
    "title": "UrbanCLIP: Learning Text-enhanced Urban Region Profiling with Contrastive Language-Image Pretraining "
    "from the Web",
    "year": 2024,
    "kind": "method",
    "entry": "UrbanCLIP",
    "provenance": "code",
    "abilities": {"generate": "", "log_prob": "", "fuse": ""},
}


@dataclass(frozen=True, kw_only=True)
class Config(CaptionsConfig):
    """Options beside those of `CaptionsConfig`, whose `contrastive` and `caption` are the weights a
    and b.

    - `resample` draws a caption of each tile anew in each epoch, in place of once for all.
    - `select` delivers the weights of the epoch with the least contrastive loss on `--val`.
    - `pooler` is the attentional pooler of the image (`towers.nn.pooling`), or "none": the tower
      pools by queries of its own.
    - `decoder` is the upper half of the decoder (`models.multimodal`), or "parallel": the authors'
      own, with its output layer tied to the embeddings, which a tower `urbanclip.parallel` needs.
    - `clamp` keeps the multiplier of cosines between 1 and `max_scale`.
    """

    caption: float = 1.0
    resample: bool = False
    select: bool = False
    pooler: NetworkSpec = "one:queries=256"
    decoder: NetworkSpec = "joint"
    clamp: bool = True

    several: ClassVar[bool] = False

    def writing(self) -> dict[str, Any]:
        """The captioner's keyword arguments: it is validated by its losses."""
        validation = Validation("pair_losses", ("contrastive", "caption"))
        return {"validation": validation, "longest": self.max_tokens}


class UrbanCLIP(PairsWithCaptions):
    """The contrastive and the captioning loss on tiles with one caption each."""

    Config = Config
    test_options: ClassVar[dict[str, Any]] = {"select": False}  # it needs validation data

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        encoder = make.dual(
            logit_scale=Temperature(
                config.scale, clamp=(1.0, config.max_scale) if config.clamp else None
            ),
            image_pooler=None if config.pooler == "none" else config.pooler,
        )
        if config.decoder == FORM:
            lm = ParallelLM(encoder.text, encoder.image.width)
        else:
            lm = MultimodalLM(encoder.text, config.decoder, encoder.image.width)
        if encoder.image_pooler is not None:
            freeze(getattr(encoder.image, "pool", None))  # nothing reads what the tower pools
        if not config.caption:
            freeze(lm)
        self.model = ContrastiveCaptioner(encoder, writes(make.tokenizer), lm, **config.writing())
        make.go_on(self.model)

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "fit {run} TILES --target A,B --out RUN",
            "evaluate {run} --data {data} --suite indicators --group block",
            "generate {run} --images IMAGES --strategy sample --top-p 0.9",
        )

    def stages(self) -> Sequence[Stage]:
        [stage] = super().stages()
        return (
            replace(
                stage,
                prepare=None if self.config.resample else self.draw,
                select="-val/contrastive" if self.config.select else None,
            ),
        )

    def draw(self, run: Any) -> None:
        """Draw the number of each sample from which its caption is drawn."""
        rng = generator(run.at.seed, "urbanclip", "captions")
        count = len(run.sources["train"])
        run.store("train", {DRAWN: rng.integers(2**62, size=count, dtype=np.int64)})

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        image, text = super().views(stage, stream)
        assert isinstance(text, TextView)
        if self.config.resample:
            return image, text
        return image, OneCaption(tokenizer=text.tokenizer, name=text.name, role=text.role)

    def terms(self, image: Tensor, text: Tensor, **equal: Any) -> dict[str, Tensor]:
        scale = self.model.encoder.logit_scale()
        loss = info_nce(image, text, scale, directions="mean", **equal)
        return {"contrastive": self.config.contrastive * loss}


# The authors' command line has a batch of 2 as a placeholder. Its other values are theirs.
_RECIPE = Recipe(
    lr=3e-4,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.01,
    schedule="constant",
    warmup=0.0,
    epochs=100,
    batch_size=32,
)
_CONFIG = {"pooler": "none", "select": True, "augment": None}
UrbanCLIP.presets = {
    "small": replace(
        SMALL,
        config={**SMALL.config, "scale": 5.0, "pooler": "one:queries=17"},
        text="text:width=128:depth=2:heads=4:pooling=cls:dropout=0.1",
    ),
    # The shape of open_clip's coca_ViT-L-14, which the authors start from
    "paper": Preset(
        config={**_CONFIG, "decoder": "apart"},
        image="vit:image_size=224:patch=14:width=1024:depth=24:heads=16:patch_bias=false:cls_position=true:"
        "pre_norm=true:pooling=queries:queries=256:pool_width=768:pool_heads=8",
        text="text:width=768:depth=12:heads=12:pooling=cls",
        tokenizer="clip:context=76",
        embed_dim=768,
        recipe=_RECIPE,
    ),
    # The authors' own model
    "scratch": Preset(
        config={**_CONFIG, "decoder": FORM, "scale": 2.718281828459045, "clamp": False},
        image="vit:image_size=224:patch=14:width=1024:depth=24:heads=16:pooling=queries:queries=257:"
        "pool_width=512:pool_heads=8",
        text="urbanclip.parallel:width=512:depth=6:heads=8",
        tokenizer="bpe:vocab_size=20000:context=76",
        embed_dim=512,
        recipe=_RECIPE,
    ),
}
UrbanCLIP.presets = {
    **UrbanCLIP.presets,
    "tune": tune(UrbanCLIP.presets["small"], pooler=Config.pooler),
}

__all__ = ["Config", "ParallelTower", "UrbanCLIP", "card"]
