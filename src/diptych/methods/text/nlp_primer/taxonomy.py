"""The taxonomy of contrastive objectives on texts (Rethmeier and Augenstein 2022)."""

from dataclasses import dataclass
from typing import Literal

Contrast = Literal["input-input", "input-label"]
Supervision = Literal["self", "supervised", "unified"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """The place of an objective in the taxonomy.

    - `title` names it, `source` its authors and year.
    - `contrast` is what is contrasted: an input with other inputs, or with labels; tokens of the
      text and whether it is real count as labels.
    - `supervision` is "self", "supervised", or "unified" for both in one loss.
    - `positives` and `negatives` are where these come from.
    """

    title: str
    source: str
    contrast: Contrast
    supervision: Supervision
    positives: str
    negatives: str
