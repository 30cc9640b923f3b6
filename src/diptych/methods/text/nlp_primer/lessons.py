"""Lessons of the survey as warnings: objectives that take negatives from the batch need a large one, whose
texts have different labels.

Dimensions: N texts, of which n_c have class c.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from diptych import collectives
from diptych.data.sample import labels_of
from diptych.methods.base import Stage
from diptych.methods.families.sentences import Sentences
from diptych.methods.text.nlp_primer.taxonomy import Row

log = logging.getLogger(__name__)

FEW = 16
"""A batch of fewer texts is small [choice]."""
COLLIDING = 0.9
"""From this share of pairs with one label on, nearly all of them collide [choice]."""


class Warned(Sentences):
    """A place in the taxonomy, `row`, and warnings before a stage that suits its objective badly."""

    row: ClassVar[Row]

    @property
    def from_batch(self) -> bool:
        """Whether the other texts of the batch are, or give, the negatives."""
        return "batch" in self.row.negatives

    @property
    def label(self) -> str | None:
        """The label whose equal values make texts no negatives of each other."""
        return getattr(self.config, "label", None)

    def stages(self) -> Sequence[Stage]:
        return [replace(stage, prepare=self.warn_of_batches) for stage in super().stages()]

    def warn_of_batches(self, run: Any) -> None:
        """Warn if negatives come from the batch, and it is small or nearly all its labels are equal."""
        if not self.from_batch or collectives.rank() > 0:
            return
        if run.batch_size < FEW:
            log.warning(
                "%s takes negatives from the batch, which has %d texts; raise --batch-size",
                self.row.title,
                run.batch_size,
            )
        source = run.sources["train"]
        if self.label is None or f"labels.{self.label}" not in source.schema():
            return
        share = same_label(labels_of(source, self.label))
        if share > COLLIDING:
            log.warning(
                "%.0f %% of the pairs of texts have the same %s, and are no negatives of %s; balance the classes, or "
                "name another label",
                100 * share,
                self.label,
                self.row.title,
            )


def same_label(values: np.ndarray) -> float:
    """The share of pairs of texts that have the same label, of labels (N,); missing ones (-1) are left
    out.

        sum_c n_c (n_c - 1) / (N (N - 1))

    >>> same_label(np.array([0, 0, 0, 1, -1]))
    0.5
    """
    counts = np.unique(values[values >= 0], return_counts=True)[1]
    pairs = int(counts.sum()) * (int(counts.sum()) - 1)
    return float((counts * (counts - 1)).sum() / pairs) if pairs else 0.0
