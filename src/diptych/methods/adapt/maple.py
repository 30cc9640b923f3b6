"""MaPLe: Multi-modal Prompt Learning (Khattak et al., CVPR 2023).

Vectors are learned at the inputs of several blocks of both towers. Those of the image tower are
linear functions of those of the text tower, so that the two spaces change together:

    Q_i = F_i(P_i),   L = mean_i CE(s <x_i(Q), t_c(P)>, c = y_i)

P_0 replaces the first `n_ctx` words of the template, the others stay. P_i overwrites the same
tokens at the input of block i < `depth`, where the input counts as the first. Q_0 is appended to
the patches and Q_i overwrites it. The model and its scale are frozen. Inference: the same prompts,
with any names.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from diptych.data.tokenizers import Tokenizer
from diptych.methods.families.few_shot import PAPER, SMALL, Classify, ClassifyConfig
from diptych.models.prompts import DeepPrompts, check_depth
from diptych.spec import Count
from diptych.towers.dual import DualEncoder

card = {
    "title": "MaPLe: Multi-modal Prompt Learning",
    "year": 2023,
    "kind": "method",
    "entry": "MaPLe",
    "provenance": "code",
}


@dataclass(frozen=True, kw_only=True)
class Config(ClassifyConfig):
    """`n_ctx` vectors at each of the first `depth` blocks of both towers."""

    n_ctx: Count = 2
    depth: Count = 9


class CoupledPrompts(DeepPrompts):
    """Deep prompts in both towers; those of the image tower are computed from those of the text
    tower: Q_i = F_i(P_i).

    The F_i are linear; those of blocks 1, 2, … are initialised equal, as published.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        tokenizer: Tokenizer,
        template: str = "a photo of a {}.",
        *,
        n_ctx: int = 2,
        depth: int = 9,
    ):
        super().__init__(encoder, tokenizer, template, n_ctx=n_ctx, depth=depth)
        assert encoder.text is not None
        check_depth(encoder.image, depth, "image")
        later = nn.Linear(encoder.text.width, encoder.image.width)
        first = nn.Linear(encoder.text.width, encoder.image.width)
        self.couple = nn.ModuleList([first, *(copy.deepcopy(later) for _ in range(depth - 1))])

    def image_prompts(self) -> Sequence[Tensor]:
        prompts = [self.context, *self.deep]
        return [function(vectors) for function, vectors in zip(self.couple, prompts, strict=True)]


class MaPLe(Classify):
    """Coupled prompts in both towers."""

    Config = Config

    def build(self, encoder: DualEncoder) -> CoupledPrompts:
        config = self.config
        return CoupledPrompts(
            encoder, self.make.tokenizer, config.template, n_ctx=config.n_ctx, depth=config.depth
        )


MaPLe.presets = {
    "small": replace(SMALL, config={"depth": 3}),
    "paper": PAPER,
    # For target data sets that differ from the source, as published: fewer blocks, fewer epochs.
    "transfer": replace(
        PAPER,
        config={**PAPER.config, "depth": 3},
        recipe=replace(PAPER.recipe, lr=0.0026, epochs=2),
    ),
}
