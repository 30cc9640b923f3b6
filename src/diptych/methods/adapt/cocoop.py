"""CoCoOp: Conditional Prompt Learning for Vision-Language Models (Zhou et al., CVPR 2022).

Like CoOp, but each image shifts the context vectors, by the same shift for all vectors and classes:

    t_c(x) = text([v_1 + h(x), …, v_M + h(x), name_c, "."]),   L = mean_i CE(s <x_i, t_c(x_i)>, c = y_i)

h, the meta-net, has two layers and reads the unit vector of the image. The prompts of every class
are encoded for every image, in chunks. Inference: the same, with any names.

Dimensions: N images, C classes, D text width, E embedding.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.tokenizers import Tokenizer
from diptych.methods.families.few_shot import PAPER, SMALL, Classify, ClassifyConfig
from diptych.models.prompts import ConditionalPrompts
from diptych.spec import Count
from diptych.towers.dual import DualEncoder

card = {
    "title": "Conditional Prompt Learning for Vision-Language Models",
    "year": 2022,
    "kind": "method",
    "entry": "CoCoOp",
    "provenance": "code",
}


@dataclass(frozen=True, kw_only=True)
class Config(ClassifyConfig):
    """`n_ctx` is the number of context vectors (None: as many as the template's words have tokens);
    with `init_from_template` they are initialised as those words. `prompts` is the number of
    prompts encoded at once."""

    n_ctx: Count | None = None
    init_from_template: bool = True
    prompts: Count = 256


class ImageConditionalPrompts(ConditionalPrompts):
    """Context vectors shifted by a meta-net on the image: v_m + h(x), where h has width E/16 as
    published."""

    def __init__(
        self,
        encoder: DualEncoder,
        tokenizer: Tokenizer,
        template: str = "a photo of a {}.",
        **options: Any,
    ):
        super().__init__(encoder, tokenizer, template, **options)
        assert encoder.text is not None
        hidden = max(1, encoder.embed_dim // 16)
        self.meta = nn.Sequential(
            nn.Linear(encoder.embed_dim, hidden), nn.ReLU(), nn.Linear(hidden, encoder.text.width)
        )

    def conditioned(self, image: Tensor) -> Tensor:
        """Return the class embeddings t_c(x) (N, C, E) for unit vectors of images (N, E)."""
        shift = self.meta(image)  # (N, D): one for all classes
        return self.pair_features(shift[:, None])

    def class_features(self, x: Tensor) -> Tensor:
        return self.conditioned(self.image_features(x))

    def logits(self, x: Tensor, texts: Tensor | None) -> Tensor:
        image = self.image_features(x)
        return self.encoder.logit_scale() * torch.einsum(
            "ne,nce->nc", image, self.conditioned(image)
        )


class CoCoOp(Classify):
    """Context vectors before the class names, shifted by the image."""

    Config = Config

    def build(self, encoder: DualEncoder) -> ImageConditionalPrompts:
        config = self.config
        return ImageConditionalPrompts(
            encoder,
            self.make.tokenizer,
            config.template,
            n_ctx=config.n_ctx,
            init_from_template=config.init_from_template,
            chunk=config.prompts,
        )


CoCoOp.presets = {
    "small": replace(SMALL, recipe=replace(SMALL.recipe, batch_size=8)),
    "paper": replace(
        PAPER, recipe=replace(PAPER.recipe, lr=0.002, warmup=0.1, epochs=10, batch_size=1)
    ),
}
