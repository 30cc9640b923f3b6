"""A Primer on Contrastive Pretraining in Language Processing (Rethmeier and Augenstein, ACM Computing
Surveys 2022).

The survey orders contrastive learning on texts by what is contrasted, an input with other inputs or
with labels, and by how it is supervised. Each objective of its catalogue trains the same encoder of
texts here, so that they can be compared: `objective` is its name with options, such as
`consert:first=shuffle`.

taxonomy.py    the place of an objective           catalogue.py   all objectives by name
losses.py      losses that no other method has     views.py       versions and spans of texts
pairs.py       an input with other inputs          labels.py      an input with labels
label_views.py views of labels                    matching.py    models that score labels
tokens.py      replaced tokens, by a generator     energy.py      binary NCE against a noise distribution
distilled.py   layers of a teacher                lessons.py     warnings of small or equal batches
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from diptych.methods.base import Method
from diptych.methods.families.sentences import PAPER, SMALL, Sentences, tune
from diptych.methods.make import Make
from diptych.methods.text.nlp_primer.catalogue import objective_class
from diptych.spec import Dropout

card = {
    "title": "A Primer on Contrastive Pretraining in Language Processing",
    "year": 2022,
    "kind": "method",
    "entry": "NLPPrimer",
    "provenance": "abstract",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of all objectives.

    - `objective` is one of the catalogue, with its options: `declutr:anchors=1`.
    - `role` is the role of the texts, or a mixture of roles (see `data.views.TextView`).
    - `pooling` and `dropout` replace those of the text tower, also of a given model's.
    """

    objective: str = "cless"
    role: str = "caption"
    pooling: Literal["first", "mean", "eot"] | None = None
    dropout: Dropout | None = None

    def __post_init__(self) -> None:
        objective_class(self.objective)


class NLPPrimer(Sentences):
    """The method of an objective; `of` returns an instance of that objective's class."""

    Config = Config

    @classmethod
    def of(cls, config: Config, make: Make) -> Method:
        found, options = objective_class(
            config.objective, role=config.role, pooling=config.pooling, dropout=config.dropout
        )
        method = found(options, make)
        method.presets = cls.presets  # type: ignore[misc]  # set on the instance
        return method

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        if options.get("objective", cls.Config.objective).startswith("cless"):
            return (
                "evaluate {run} --data {data} --suite text_labels --label FIELD",
                "classify {run} TEXTS --names 'A,B'",
            )
        return "evaluate {run} --data PAIRS --suite sts", "embed {run} SOURCE --out EMB"


_TOKENIZER = "bpe:vocab_size=4096:context=64:special=mask"
NLPPrimer.presets = {
    "small": replace(SMALL, tokenizer=_TOKENIZER),
    "paper": PAPER,
    "tune": replace(tune(SMALL), tokenizer=_TOKENIZER),
}
