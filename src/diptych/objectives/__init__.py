"""Objectives: pure functions from features to a scalar, independent of ranks, methods and
models."""

from diptych.objectives.contrastive import info_nce, sigmoid_pairs
from diptych.objectives.core import RowLosses, both_losses, pair_losses
from diptych.objectives.module import Objective
from diptych.objectives.multiview import (
    average,
    dcl,
    dhel,
    kcl,
    mv_dhel,
    mv_infonce,
    nt_xent,
    pairwise,
    poly_view,
    supervised,
)
from diptych.objectives.uniformity import (
    alignment,
    cross_uniformity,
    kernel_entropy,
    uniformity,
)

__all__ = [
    "Objective",
    "RowLosses",
    "alignment",
    "average",
    "both_losses",
    "cross_uniformity",
    "dcl",
    "dhel",
    "info_nce",
    "kcl",
    "kernel_entropy",
    "mv_dhel",
    "mv_infonce",
    "nt_xent",
    "pair_losses",
    "pairwise",
    "poly_view",
    "sigmoid_pairs",
    "supervised",
    "uniformity",
]
