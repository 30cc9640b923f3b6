"""Objectives: pure functions from features to a scalar. They know tensors, not ranks, methods or models."""

from diptych.objectives.contrastive import info_nce, sigmoid_pairs
from diptych.objectives.core import RowLosses, both_losses, pair_losses

__all__ = ["RowLosses", "both_losses", "info_nce", "pair_losses", "sigmoid_pairs"]
