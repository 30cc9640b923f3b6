"""CoCoOp: Conditional Prompt Learning for Vision-Language Models (Zhou et al., CVPR 2022).

As CoOp, with vectors that each picture shifts, all of them and for all classes alike:

    t_c(x) = text([v_1 + h(x), …, v_M + h(x), name_c, "."]),   L = mean_i CE(s <x_i, t_c(x_i)>, c = y_i)

h is two layers on the picture's unit vector. The prompts of every picture are encoded for every class, some at once.
Inference: the same, with any names.
"""

from dataclasses import dataclass, replace

from diptych.methods.families.few_shot import PAPER, SMALL, Classify, ClassifyConfig
from diptych.models.prompts import Conditional
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
    """`length` is the number of vectors, None as many as the template's words have tokens; with `start` they begin as
    those words. `prompts` are encoded at once."""

    length: Count | None = None
    start: bool = True
    prompts: Count = 256


class CoCoOp(Classify):
    """Vectors in front of the names, shifted by the picture."""

    Config = Config

    def build(self, encoder: DualEncoder) -> Conditional:
        config = self.config
        how = {"length": config.length, "start": config.start, "chunk": config.prompts}
        return Conditional(encoder, self.make.tokenizer, config.template, **how)


CoCoOp.presets = {
    "small": replace(SMALL, recipe=replace(SMALL.recipe, batch_size=8)),
    "paper": replace(PAPER, recipe=replace(PAPER.recipe, lr=0.002, warmup=0.1, epochs=10, batch_size=1)),
}
