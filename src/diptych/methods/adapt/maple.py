"""MaPLe: Multi-modal Prompt Learning (Khattak et al., CVPR 2023).

Vectors are learnt at the inputs of several blocks of both towers, and those of the image tower are linear functions of
the text tower's: Q_i = F_i(P_i), so that the two spaces move together.

    L = mean_i CE(s <x_i(Q), t_c(P)>, c = y_i)

P_0 takes the place of the first `length` words of the template, the others stay; P_i that of the same tokens at the
input of block i < `depth`, which counts the input. Q_0 stands behind the patches, Q_i takes its place. The model and
its scale stay as they are. Inference: the same prompts, with any names.
"""

from dataclasses import dataclass, replace

from diptych.methods.families.few_shot import PAPER, SMALL, Classify, ClassifyConfig
from diptych.models.prompts import Deep
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
    """`length` vectors at each of the first `depth` blocks of both towers."""

    length: Count = 2
    depth: Count = 9


class MaPLe(Classify):
    """Coupled prompts in both towers."""

    Config = Config

    def build(self, encoder: DualEncoder) -> Deep:
        size = {"length": self.config.length, "depth": self.config.depth}
        return Deep(encoder, self.make.tokenizer, self.config.template, **size,
                    **{f"image_{name}": value for name, value in size.items()})  # fmt: skip


MaPLe.presets = {
    "small": replace(SMALL, config={"depth": 3}),
    "paper": PAPER,
}
