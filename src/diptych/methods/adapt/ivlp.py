"""Independent vision-language prompting, a baseline of MaPLe (in Khattak et al., CVPR 2023).

Vectors are learned at the inputs of the first blocks of both towers, P in the text tower and Q in
the image tower, independently:

    L = mean_i CE(s <x_i(Q), t_c(P)>, c = y_i)

With `n_ctx` 0 it is deep visual prompting (VPT, Jia et al., ECCV 2022), with `image_n_ctx` 0 deep
language prompting.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError
from diptych.methods.families.few_shot import PAPER, SMALL, Classify, ClassifyConfig
from diptych.models.prompts import DeepPrompts, check_depth, random_prompts
from diptych.spec import Natural
from diptych.towers.dual import DualEncoder

card = {
    "title": "Independent vision-language prompting (in MaPLe)",
    "year": 2023,
    "kind": "method",
    "entry": "IVLP",
    "provenance": "code",
}


@dataclass(frozen=True, kw_only=True)
class Config(ClassifyConfig):
    """`n_ctx` vectors at each of the first `depth` blocks of the text tower, `image_n_ctx` at each
    of the first `image_depth` of the image tower; 0 vectors leave a tower unchanged."""

    n_ctx: Natural = 2
    depth: Natural = 12
    image_n_ctx: Natural = 2
    image_depth: Natural = 12


class IndependentPrompts(DeepPrompts):
    """Deep prompts in both towers; those of the image tower are free parameters."""

    def __init__(
        self,
        encoder: DualEncoder,
        tokenizer: Tokenizer,
        template: str = "a photo of a {}.",
        *,
        n_ctx: int = 2,
        depth: int = 12,
        image_n_ctx: int = 2,
        image_depth: int = 12,
    ):
        if not n_ctx and not image_n_ctx:
            raise InputError(
                "without vectors in either tower there is nothing to learn; give n_ctx or image_n_ctx"
            )
        super().__init__(encoder, tokenizer, template, n_ctx=n_ctx, depth=depth)
        if image_n_ctx:
            check_depth(encoder.image, image_depth, "image")
        self.visual = random_prompts(
            image_depth if image_n_ctx else 0, image_n_ctx, encoder.image.width
        )

    def image_prompts(self) -> Sequence[Tensor]:
        return list(self.visual)


class IVLP(Classify):
    """Independent prompts in both towers."""

    Config = Config

    def build(self, encoder: DualEncoder) -> IndependentPrompts:
        config = self.config
        return IndependentPrompts(
            encoder,
            self.make.tokenizer,
            config.template,
            n_ctx=config.n_ctx,
            depth=config.depth,
            image_n_ctx=config.image_n_ctx,
            image_depth=config.image_depth,
        )


IVLP.presets = {
    "small": replace(SMALL, config={"depth": 4, "image_depth": 4}),
    "paper": PAPER,
}
