"""CoOp: Learning to Prompt for Vision-Language Models (Zhou et al., IJCV 2022).

The words before a class name are replaced by vectors, which are learnt on a few labelled pictures of each class; both
towers stay as they are.

    t_c = text([v_1, …, v_M, name_c, "."]),   L = mean_i CE(s <x_i, t_c>, c = y_i)

All classes share the vectors, or each has its own. Inference: the same prompts; with shared vectors any other names.
"""

from dataclasses import dataclass, replace

from diptych.methods.families.few_shot import PAPER, SMALL, Classify, ClassifyConfig
from diptych.models.prompts import Position, Prompted
from diptych.spec import Count
from diptych.towers.dual import DualEncoder

card = {
    "title": "Learning to Prompt for Vision-Language Models",
    "year": 2022,
    "kind": "method",
    "entry": "CoOp",
    "provenance": "code",
}


@dataclass(frozen=True, kw_only=True)
class Config(ClassifyConfig):
    """`length` is the number of vectors, None as many as the template's words have tokens; with `start` they begin as
    those words. `position` says where the name stands among them, or that they take its place; `own` whether each class
    has vectors of its own; `cached` that pictures are embedded once."""

    length: Count | None = None
    start: bool = True
    position: Position = "end"
    own: bool = False
    cached: bool = False


class CoOp(Classify):
    """Vectors in front of the names."""

    Config = Config

    def build(self, encoder: DualEncoder) -> Prompted:
        config = self.config
        how = {"length": config.length, "start": config.start, "position": config.position, "own": config.own}
        return Prompted(encoder, self.make.tokenizer, config.template, **how)


CoOp.presets = {
    "small": replace(SMALL, recipe=replace(SMALL.recipe, lr=0.02, epochs=30)),
    "paper": replace(
        PAPER,
        config={**PAPER.config, "length": 16, "start": False},
        recipe=replace(PAPER.recipe, lr=0.002, warmup=1 / 200, epochs=200, batch_size=32),
    ),
}
