"""Independent vision-language prompting, what MaPLe is compared with (in Khattak et al., CVPR 2023).

Vectors are learnt at the inputs of the first blocks of both towers, those of each tower for themselves:

    L = mean_i CE(s <x_i(Q), t_c(P)>, c = y_i)

With `length` 0 it is deep visual prompting (VPT, Jia et al., ECCV 2022), with `image_length` 0 deep language prompting.
"""

from dataclasses import dataclass, replace
from typing import Annotated

from diptych.methods.families.few_shot import PAPER, SMALL, Classify, ClassifyConfig
from diptych.models.prompts import Deep
from diptych.spec import AtLeast
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
    """`length` vectors at each of the first `depth` blocks of the text tower, `image_length` at each of the first
    `image_depth` of the image tower; 0 of them leave a tower as it is."""

    length: Annotated[int, AtLeast(0)] = 2
    depth: Annotated[int, AtLeast(0)] = 12
    image_length: Annotated[int, AtLeast(0)] = 2
    image_depth: Annotated[int, AtLeast(0)] = 12


class IVLP(Classify):
    """Prompts in both towers, each for itself."""

    Config = Config

    def build(self, encoder: DualEncoder) -> Deep:
        config = self.config
        return Deep(
            encoder, self.make.tokenizer, config.template, length=config.length, depth=config.depth,
            image_length=config.image_length, image_depth=config.image_depth, coupled=False,
        )  # fmt: skip


IVLP.presets = {
    "small": replace(SMALL, config={"depth": 4, "image_depth": 4}),
    "paper": PAPER,
}
