"""A pooler and a softmax layer on frozen tokens: what a classifier can read from the tokens of an image
tower that its pooled vector may lack.

    logits = W pooler_1(X) + b,      pooler_1 one layer of attention of one learned query (`QueryPooler`)

Source: the frozen evaluation of Yu et al. 2022 (CoCa): learning rate 5e-4 with a cosine schedule, 128
samples a step. AdamW without weight decay, 50 epochs, and the epoch that is best on validation
samples are choices of ours.

Dimensions: N samples, P tokens of each, D width, C classes.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from diptych.errors import InputError
from diptych.linear import among_first
from diptych.towers.nn.pooling import QueryPooler

AT_ONCE = 1024
"""Samples that are classified at once."""


class PoolerClassifier(nn.Module):
    """Tokens (N, P, D) -> logits (N, C)."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.pooler = QueryPooler(width, heads=max(1, width // 64), queries=1)
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.classifier(self.pooler(tokens)[:, 0])


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted pooler with the interface of scikit-learn's classifiers; `epoch` is the kept epoch,
    counted from 1."""

    classes_: np.ndarray
    module: PoolerClassifier
    epoch: int

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        """Logits (N, C) of tokens (N, P, D)."""
        return _logits(self.module, torch.from_numpy(x)).numpy()


def pooler(
    x: np.ndarray,
    y: np.ndarray,
    val_x: np.ndarray,
    val_y: np.ndarray,
    *,
    seed: int = 0,
    lr: float = 5e-4,
    batch: int = 128,
    epochs: int = 50,
) -> Fitted:
    """Train a pooler on tokens x (N, P, D) with labels y (N,), and return it at the epoch with the
    best accuracy on `val`; of equal ones the last.

    Raises InputError if there are fewer than two classes.
    """
    classes, places = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise InputError(
            "all samples that a probe learns from are of one class; give samples of others too"
        )
    tokens = torch.from_numpy(x)
    targets = torch.from_numpy(places)
    val = torch.from_numpy(val_x)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = PoolerClassifier(x.shape[2], len(classes))
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=0.0)
    steps = epochs * -(-len(tokens) // batch)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(seed)
    best = -1.0
    kept = Fitted(classes_=classes, module=module, epoch=0)
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(tokens), generator=order).split(batch):
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(module(tokens[rows]), targets[rows]).backward()
            optimizer.step()
            rate.step()
        reached = float(among_first(_logits(module, val), classes, val_y).mean())
        if reached >= best:
            best = reached
            kept = Fitted(classes_=classes, module=copy.deepcopy(module), epoch=epoch)
    return kept


@torch.no_grad()
def _logits(module: PoolerClassifier, tokens: Tensor) -> Tensor:
    return torch.cat([module(some) for some in tokens.split(AT_ONCE)])
