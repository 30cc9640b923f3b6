"""Options of RenalCLIP, and what they name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from diptych.errors import InputError, unknown
from diptych.methods.base import Recipe
from diptych.spec import (
    Count,
    Dropout,
    ModelSpec,
    NetworkSpec,
    NotNegative,
    Positive,
    ShareBelowOne,
    configure,
)

KNOWLEDGE = ("attributes", "words", "reports")
"""The stages before the alignment."""

WRITING = ("adapter", "tune")
"""The stages of the task report."""

CLAMP = 4.6052
"""The largest logarithm of the scale, which is a little more than ln 100."""

PHASES = ("plain", "arterial", "venous", "delayed")
"""Roles of volumes, by contrast phase."""

RENAL = (
    *("kind", "radius", "exophytic", "nearness", "anterior", "location"),
    *("enhancement", "margin", "calcification", "necrosis"),
)
"""The attributes of the world `kidneys`."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of all stages.

    - `task` is what is trained: align, or from a trained model a diagnosis, survival, or the report.
    - `knowledge` names the stages before the alignment, and `recipes` holds the differences of their
      recipes from the run's, by stage; for the task report those of its stages, adapter and tune.
    - `augment` holds options of `volumes.VolumeAugment`, None for none.
    - `phases` are the roles of which one is drawn for each volume, or for both of a patient.

    Of the knowledge stages:

    - `attributes` are labels with class names; `head_dropout` is that before their heads.
    - `lm` is a language model whose weights and words the text tower starts from; its attention
      becomes bidirectional. For the task report it is the one that writes.
    - `mask_rate` is the share of masked ids, `tau` the temperature of passes of a report.

    Of the alignment:

    - `role` is the role of the reports; `side` a label that is left or right, for reports without
      findings; `patient` the label of both kidneys of a patient.
    - `variants` is the number K of variants of a report.
    - `image_projection` is the head of the image tower (`towers.nn.heads`), of a new model.
    - `image_lr` multiplies the learning rate of the image tower.
    - `duplicates` are equal reports of others: apart (negatives), masked, or positives.
    - `select` is a number of the validation whose best epoch is delivered, such as val/t2i_r5.

    Of the tasks:

    - `label` is that of a diagnosis; `time` and `event` are those of survival; `phase` is the role of
      the volumes that are read; `hidden` and `dropout` are those of the head.

    Of the task report, which reads `phase` too:

    - `tokens` is the number of virtual tokens of a volume, and `prompt` is what is read behind them.
    - `tune` says what of the language model the second stage trains: low-rank factors, whole, or none,
      without that stage. `lm_lr` multiplies its learning rate there.
    - `max_tokens` is the most generated tokens.
    """

    task: Literal["align", "diagnosis", "survival", "report"] = "align"
    knowledge: tuple[str, ...] = KNOWLEDGE
    recipes: Mapping[str, Any] = field(default_factory=dict)
    augment: Mapping[str, Any] | None = field(default_factory=dict)
    phases: tuple[str, ...] = PHASES
    attributes: tuple[str, ...] = RENAL
    head_dropout: ShareBelowOne = 0.0
    lm: ModelSpec | None = None
    mask_rate: ShareBelowOne = 0.2
    tau: Positive = 0.05
    role: str = "caption"
    side: str = "side"
    patient: str = "patient"
    variants: Count = 5
    image_projection: NetworkSpec = "affine"
    image_lr: NotNegative = 0.02
    duplicates: Literal["apart", "masked", "positives"] = "apart"
    select: str | None = None
    label: str = "malignant"
    time: str = "recurrence_time"
    event: str = "recurrence_event"
    phase: str = "main"
    hidden: Count = 128
    dropout: Dropout = 0.0
    tokens: Count = 8
    prompt: str = ""
    tune: str = "lora:r=8:layers=q+v"
    lm_lr: NotNegative = 1.0
    max_tokens: Count = 256

    def __post_init__(self) -> None:
        for name in self.knowledge:
            if name not in KNOWLEDGE:
                raise unknown("knowledge stage of renalclip", name, KNOWLEDGE)
        stages = WRITING if self.task == "report" else KNOWLEDGE
        for name, recipe in self.recipes.items():
            if name not in stages:
                raise unknown("stage in recipes of renalclip", name, stages)
            configure(Recipe, {**asdict(Recipe()), **recipe}, f"recipes of stage {name!r}")
        if "attributes" in self.knowledge and not self.attributes:
            raise InputError(
                "the stage of attributes has no attribute; name labels with --method.attributes, or leave "
                "the stage out of --method.knowledge"
            )
