"""The objectives by name."""

from collections.abc import Mapping
from typing import Any

from diptych.errors import unknown
from diptych.methods.families.sentences import Sentences
from diptych.methods.text.nlp_primer.distilled import CRD
from diptych.methods.text.nlp_primer.energy import BinaryNCE, ResidualEnergy
from diptych.methods.text.nlp_primer.labels import CLESS, LabelText, SupConTuning
from diptych.methods.text.nlp_primer.lessons import Warned
from diptych.methods.text.nlp_primer.pairs import (
    CAPT,
    CERT,
    CLEAR,
    ConSERT,
    DeCLUTR,
    MirrorBERT,
    SupCon,
    Triplet,
)
from diptych.methods.text.nlp_primer.taxonomy import Row
from diptych.methods.text.nlp_primer.tokens import COCOLM, ELECTRA
from diptych.methods.text.simcse import SimCSE
from diptych.spec import configure, parse


class SimCSEObjective(Warned, SimCSE):
    """SimCSE, as the method `simcse` trains it."""

    row = Row(
        title="SimCSE",
        source="Gao et al. 2021",
        contrast="input-input",
        supervision="self",
        positives="dropout; entailment with `positive`",
        negatives="in-batch; contradiction with `negative`",
    )


OBJECTIVES: Mapping[str, Any] = {
    "simcse": SimCSEObjective,
    "triplet": Triplet,
    "supcon": SupCon,
    "consert": ConSERT,
    "declutr": DeCLUTR,
    "cert": CERT,
    "clear": CLEAR,
    "capt": CAPT,
    "mirror_bert": MirrorBERT,
    "electra": ELECTRA,
    "coco_lm": COCOLM,
    "binary_nce": BinaryNCE,
    "residual_energy": ResidualEnergy,
    "crd": CRD,
    "cless": CLESS,
    "label_text": LabelText,
    "supcon_tuning": SupConTuning,
}
"""The class of each objective."""


def describe(objective: str) -> Row:
    """Return the place in the taxonomy of the objective of a spec.

    Raises InputError for an unknown objective.

    >>> describe("consert:first=shuffle").contrast
    'input-input'
    """
    return _class_of(objective)[0].row


def objective_class(spec: str, **common: Any) -> tuple[type[Sentences], Any]:
    """Return the class of an objective and its typed options, which are those of its spec and
    `common` where these are given.

    Raises InputError for an unknown objective and for options that it does not have.
    """
    found, options = _class_of(spec)
    given = {name: value for name, value in common.items() if value is not None}
    return found, configure(
        found.Config, {**options, **given}, f"objective {spec.partition(':')[0]}"
    )


def _class_of(spec: str) -> tuple[Any, Mapping[str, Any]]:
    parsed = parse(spec)
    if parsed.name not in OBJECTIVES:
        raise unknown("objective of nlp_primer", parsed.name, OBJECTIVES)
    return OBJECTIVES[parsed.name], parsed.options
