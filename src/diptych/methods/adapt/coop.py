"""CoOp: Learning to Prompt for Vision-Language Models (Zhou et al., IJCV 2022).

Context vectors replace the words before a class name. They are learned from a few labelled images
of each class; both towers are frozen.

    t_c = text([v_1, …, v_M, name_c, "."]),   L = mean_i CE(s <x_i, t_c>, c = y_i)

All classes share the vectors, or each class has separate ones. Inference: the same prompts; shared
vectors accept any other names. The prompts are `models.prompts.PromptLearner`.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from diptych.errors import InputError
from diptych.methods.families.few_shot import PAPER, SMALL, Classify, ClassifyConfig
from diptych.models.prompts import ClassPosition, PromptLearner, PromptTemplate
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
    """`n_ctx` is the number of context vectors (None: as many as the template's words have tokens);
    with `init_from_template` they are initialised as those words. `position` is the position of the
    class name among them, or `name` if they replace it. With `class_specific` each class has
    separate vectors. With `cached` images are embedded once."""

    n_ctx: Count | None = None
    init_from_template: bool = True
    position: Literal[ClassPosition, "name"] = "end"
    class_specific: bool = False
    cached: bool = False

    def __post_init__(self) -> None:
        if self.position == "name" and not self.class_specific:
            raise InputError(
                "shared vectors in place of the names make all classes one; set class_specific=true"
            )


class TextualInversion(PromptLearner):
    """Separate vectors for each class (by default one) replace its name; the words of the template
    stay.

    Textual inversion (Gal et al., ICLR 2023) as a baseline: t_c = text(["a photo of a", v_c, "."]).
    """

    def __init__(self, *args: Any, n_ctx: int | None = None, **options: Any):
        super().__init__(*args, n_ctx=n_ctx or 1, position="front", **options)

    def kept_ids(self, template: PromptTemplate, named: list[int]) -> list[int]:
        return template.words


class CoOp(Classify):
    """Learned context vectors beside the class names."""

    Config = Config

    def build(self, encoder: DualEncoder) -> PromptLearner:
        config = self.config
        options = {
            "n_ctx": config.n_ctx,
            "init_from_template": config.init_from_template,
            "class_specific": config.class_specific,
        }
        if config.position == "name":
            return TextualInversion(encoder, self.make.tokenizer, config.template, **options)
        return PromptLearner(
            encoder, self.make.tokenizer, config.template, position=config.position, **options
        )


CoOp.presets = {
    "small": replace(SMALL, recipe=replace(SMALL.recipe, lr=0.02, epochs=30)),
    "paper": replace(
        PAPER,
        config={**PAPER.config, "n_ctx": 16, "init_from_template": False},
        recipe=replace(PAPER.recipe, lr=0.002, warmup=1 / 200, epochs=200, batch_size=32),
    ),
}
