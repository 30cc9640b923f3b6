"""Metrics of retrieval, classification, agreement and distribution as functions of arrays.

Ties always count against the model: if a right and a wrong answer have the same score, the wrong
one ranks first. So a model that maps everything to one point gets 0, and no result depends on the
order of the data. Scores that differ by less than the rounding of a float32 dot product (1e-6 of
the vectors' norms) count as equal.

scipy and scikit-learn are used where they provide a metric. They are in the extra `lab` and are
imported when first needed.
"""

from diptych.metrics.arrays import (
    TIE,
    Array,
    lab,
)
from diptych.metrics.classification import (
    accuracy,
    auroc,
    average_precision,
    best_threshold,
    class_ranks,
    harmonic_mean,
    per_class,
    precision_at,
    precision_recall_f1,
)
from diptych.metrics.distribution import (
    correlation,
    covariance_rank,
    effective_rank,
    isotropy,
    spread,
    wasserstein_uniformity,
)
from diptych.metrics.ranking import (
    Positives,
    chance_recall,
    chance_reciprocal_rank,
    first,
    mean_average_precision,
    mean_reciprocal_rank,
    median_rank,
    nearest,
    ranks,
    ranks_of_two_stages,
    recall_at_k,
    similarities,
)

__all__ = [
    "TIE",
    "Array",
    "Positives",
    "accuracy",
    "auroc",
    "average_precision",
    "best_threshold",
    "chance_recall",
    "chance_reciprocal_rank",
    "class_ranks",
    "correlation",
    "covariance_rank",
    "effective_rank",
    "first",
    "harmonic_mean",
    "isotropy",
    "lab",
    "mean_average_precision",
    "mean_reciprocal_rank",
    "median_rank",
    "nearest",
    "per_class",
    "precision_at",
    "precision_recall_f1",
    "ranks",
    "ranks_of_two_stages",
    "recall_at_k",
    "similarities",
    "spread",
    "wasserstein_uniformity",
]
