"""Options of Pixel Linguist, and what they name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from diptych.data.render import FONT, POINTS
from diptych.data.typos import TYPOS
from diptych.errors import InputError, unknown
from diptych.methods.base import Recipe
from diptych.spec import (
    Count,
    Dropout,
    Positive,
    Share,
    ShareBelowOne,
    Width,
    configure,
    several,
)

STAGES = ("masked", "noise", "spans", "nli", "parallel")
"""What stages may be, in the order in which they first come."""

TEXTS = ("typos", "shuffle", "window", "mixed")
"""Branches whose positives are other texts: typos, words in any order, words moved a little, both."""

PIXELS = ("crop", "flip", "blur")
"""Branches whose positives are other pixels of the same text."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of all stages.

    - `stages` are the stages in their order (`STAGES`). None is masked (of a new tower that reads
      pixels) and noise, then those of spans, nli and parallel whose streams are given: nli and
      parallel in turns, `rounds` times each, and nli at the end.
    - `recipes` holds the differences of their recipes from the run's, by stage.
    - `select` is a number of the validation, such as val/spearman, whose best epoch ends each of
      the stages of spans, nli and parallel.
    - `scale` is the multiplier 1 / tau of cosines.
    - `mlp` puts a layer before the mean in training; `infer_mlp` leaves it there afterwards.
      `head_dropout` is its dropout.
    - `font` and `font_size`, in pixels, are those of `data.render`.

    Of their pairs:

    - `role` is the role of the texts.
    - `branches` are the kinds of noise, each of a branch of its own (`TEXTS`, `PIXELS`); `typos` are
      the kinds of typos, joined by +, `typo_rate` the share of longer words with one.
    - `document` is the role of texts of several sentences, two of which are a pair of spans; "" is
      `role`.
    - `hypothesis` is the role of the second text of nli; "" is pair, or question. `contradiction`
      is that of a third text, which is a further negative of all.
    - `languages` are the roles of the translations of `role`; () is all other roles.

    Of the stage masked:

    - `hidden_share` is the share of hidden patches; `decoder_width`, `decoder_depth` and
      `decoder_heads` are the sizes of the decoder, which is not kept.
    """

    stages: tuple[str, ...] | None = None
    rounds: Count = 2
    recipes: Mapping[str, Any] = field(default_factory=dict)
    select: str | None = None
    scale: Positive = 20.0
    mlp: bool = True
    infer_mlp: bool = False
    head_dropout: Dropout = 0.1
    font: str = FONT
    font_size: Positive = POINTS
    role: str = "caption"
    branches: tuple[str, ...] = TEXTS
    typos: str = "swap+drop+double+neighbour"
    typo_rate: Share = 0.3
    document: str = ""
    hypothesis: str = ""
    contradiction: str = ""
    languages: tuple[str, ...] = ()
    hidden_share: ShareBelowOne = 0.25
    decoder_width: Width = 512
    decoder_depth: Count = 8
    decoder_heads: Count = 16

    def __post_init__(self) -> None:
        for name, given, choices in (
            ("stage", self.stages or (), STAGES),
            ("branch", self.branches, (*TEXTS, *PIXELS)),
            ("stage in recipes", self.recipes, STAGES),
        ):
            for each in given:
                if each not in choices:
                    raise unknown(f"{name} of pixel_linguist", each, choices)
        several("typo of pixel_linguist", self.typos, TYPOS)
        for name, recipe in self.recipes.items():
            configure(Recipe, {**asdict(Recipe()), **recipe}, f"recipes of stage {name!r}")
        if self.stages == () or not self.branches:
            what = "stage" if self.stages == () else "branch"
            raise InputError(
                f"pixel_linguist has no {what}; name one with --method.{what}{'es' if what == 'branch' else 's'}"
            )
        if self.infer_mlp and not self.mlp:
            raise InputError(
                "infer_mlp keeps a layer that mlp=false leaves out; leave one of them out"
            )
