"""Objectives: pure functions from features to a scalar. They know tensors, not ranks, methods or models."""

from diptych.objectives.contrastive import info_nce, sigmoid_pairs
from diptych.objectives.core import RowLosses, both_losses, pair_losses
from diptych.objectives.uniformity import alignment, cross_uniformity, uniformity

__all__ = [
    "RowLosses",
    "alignment",
    "both_losses",
    "cross_uniformity",
    "info_nce",
    "pair_losses",
    "sigmoid_pairs",
    "uniformity",
]
