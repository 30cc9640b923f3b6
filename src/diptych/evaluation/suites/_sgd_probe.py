"""A linear layer on frozen features, trained by plain SGD for many epochs; the epoch that is best
on validation samples is kept.

    logits = W x / r + b,   r = mean_i |x_i| over the samples that are fitted

Source: the probe of Lewis et al. 2023 (GIST): learning rate 0.5, 64 samples a step, 1,000 epochs,
neither momentum nor weight decay. The published probe does not normalise its features, whose
lengths vary; the division by r is ours, so that one rate suits all encoders.

Dimensions: N samples, D width, C classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from diptych.errors import InputError
from diptych.linear import among_first


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A fitted layer with the interface of scikit-learn's classifiers; `epoch` is the kept epoch,
    counted from 1."""

    classes_: np.ndarray
    weight: np.ndarray  # (C, D), for features that are not divided by r
    bias: np.ndarray  # (C,)
    epoch: int

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        """Logits (N, C) of features (N, D)."""
        return x @ self.weight.T + self.bias


def layer(
    x: np.ndarray,
    y: np.ndarray,
    val_x: np.ndarray,
    val_y: np.ndarray,
    *,
    seed: int = 0,
    lr: float = 0.5,
    batch: int = 64,
    epochs: int = 1000,
) -> Layer:
    """Train a layer on features x (N, D) with labels y (N,), and return it at the epoch with the
    best accuracy on `val`; of equal ones the last.

    It is initialised at zero, so that features of zeros predict classes by their frequency only.
    Raises InputError if there are fewer than two classes.

    >>> x = np.random.default_rng(0).normal(size=(60, 4))
    >>> found = layer(x[:40], x[:40, 0] > 0, x[40:], x[40:, 0] > 0, epochs=20)
    >>> float((found.decision_function(x).argmax(1) == (x[:, 0] > 0)).mean()) > 0.9
    True
    """
    classes, places = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise InputError(
            "all samples that a probe learns from are of one class; give samples of others too"
        )
    size = max(float(np.linalg.norm(x, axis=1).mean()), np.finfo(np.float32).tiny)
    features = torch.as_tensor(x / size).float()
    targets = torch.from_numpy(places)
    val = torch.as_tensor(val_x / size).float()
    weight = torch.zeros(len(classes), x.shape[1], requires_grad=True)
    bias = torch.zeros(len(classes), requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=lr)
    order = torch.Generator().manual_seed(seed)
    best = -1.0
    kept = (0, weight.detach().clone(), bias.detach().clone())
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(features), generator=order).split(batch):
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(features[rows] @ weight.T + bias, targets[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            reached = float(among_first(val @ weight.T + bias, classes, val_y).mean())
        if reached >= best:
            best = reached
            kept = (epoch, weight.detach().clone(), bias.detach().clone())
    epoch, of_features, of_all = kept
    return Layer(
        classes_=classes, weight=of_features.numpy() / size, bias=of_all.numpy(), epoch=epoch
    )
