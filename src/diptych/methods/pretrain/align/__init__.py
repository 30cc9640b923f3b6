"""ALIGN: Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision
(Jia et al., ICML 2021).

A plain dual encoder on raw alternative texts, whose number makes up for their noise:

    S = X Y^T / sigma,   L = CE_e(S, diagonal) + CE_e(S^T, diagonal)

X, Y (B, E) are unit vectors. The two directions are summed. CE_e has the target 1 - e on the match
plus e / B on every column, the match included. sigma is learned directly, as a divisor that starts
at 1 (it reaches about 1/64 at the paper's size). Texts are filtered by frequency alone
(`filter.py`). Inference: cosine similarity; a query of image and words is the sum or difference of
their unit vectors.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from diptych.errors import InputError
from diptych.methods.base import Preset, Recipe
from diptych.methods.families.pairs import SMALL, DuplicatesConfig, Pairs, tune
from diptych.methods.make import Make
from diptych.objectives import info_nce
from diptych.spec import Positive, ShareBelowOne
from diptych.towers.nn.parts import Temperature

card = {
    "title": "ALIGN: Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision",
    "year": 2021,
    "kind": "method",
    "entry": "ALIGN",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config(DuplicatesConfig):
    """`sigma` is the initial divisor, and `learned` sets whether it is trained. It never falls
    below `least_sigma` [choice: the paper names no bound, but a divisor could cross 0]. `smoothing`
    is e."""

    sigma: Positive = 1.0
    learned: bool = True
    least_sigma: Positive = 1e-3
    smoothing: ShareBelowOne = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least_sigma > self.sigma:
            raise InputError(
                f"sigma is {self.sigma} and its least value {self.least_sigma}; give them in order"
            )


class ALIGN(Pairs):
    """Label-smoothed softmax loss in both directions, summed, with a learned divisor."""

    Config = Config

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        scale = (
            Temperature(config.sigma, form="divisor", clamp=(config.least_sigma, 1e3))
            if config.learned
            else Temperature(1 / config.sigma, form="fixed")
        )
        self.model = make.dual(logit_scale=scale, image_projection="fit", text_projection="affine")

    def terms(self, image: Tensor, text: Tensor, **equal: Any) -> dict[str, Tensor]:
        loss = info_nce(
            image,
            text,
            self.model.logit_scale(),
            smoothing=self.config.smoothing,
            directions="sum",
            **equal,
        )
        return {"contrastive": loss}


ALIGN.presets = {
    "small": replace(
        SMALL,
        text="text:width=128:depth=1:heads=4:causal=false:pooling=first:dropout=0.1",
        recipe=replace(SMALL.recipe, schedule="linear"),
    ),
    # The size of the public weights, EfficientNet-B7 and BERT-base (the paper's largest model, L2
    # and BERT-large, has embeddings of 1376 dimensions); 289 pixels are cropped from 346. [choice]
    # Pre-LN blocks and byte pairs in place of BERT's blocks and word pieces.
    "paper": Preset(
        config={"augment": {"crop": (0.7, 0.7), "ratio": (1.0, 1.0), "flip": True}},
        image=f"timm:efficientnet_b7:image_size=289:margin={346 / 289}:head_conv=false",
        text="text:width=768:depth=12:heads=12:causal=false:pooling=first",
        tokenizer="bpe:vocab_size=100000:context=64",
        embed_dim=640,
        recipe=Recipe(
            optimizer="lamb",
            lr=1e-3,
            weight_decay=1e-5,
            schedule="linear",
            warmup=10_000,
            steps=1_200_000,
            batch_size=16_384,
            precision="bfloat16",
        ),
    ),
}
ALIGN.presets = {**ALIGN.presets, "tune": tune(ALIGN.presets["small"])}
