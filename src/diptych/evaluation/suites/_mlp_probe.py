"""A small network on frozen features, for labels with real values.

    y' = mean + std · (W_2 drop(relu(W_1 x + b_1)) + b_2),      L = mean ((y' - y) / std)²

mean and std are those of the targets that it learns from. Source: the frozen evaluation of UrbanCLIP
(Yan et al., 2024): 256 hidden units, dropout .01, AdamW at 3e-4 with decay .01, 100 epochs. The epoch
that is best on validation samples is kept, and batches have 32 samples: choices of ours.

Dimensions: N samples, D width.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

HIDDEN = 256
DROPOUT = 0.01


class Regressor:
    """A fitted network; `epoch` is the kept epoch, counted from 1."""

    def __init__(self, module: nn.Module, mean: float, std: float, epoch: int):
        self.module = module
        self.mean = mean
        self.std = std
        self.epoch = epoch

    @torch.no_grad()
    def predict(self, x: np.ndarray) -> np.ndarray:
        """The values (N,) of features (N, D)."""
        return self.mean + self.std * self.module(torch.from_numpy(x))[:, 0].numpy()


def mlp(
    x: np.ndarray,
    y: np.ndarray,
    val_x: np.ndarray,
    val_y: np.ndarray,
    *,
    seed: int = 0,
    lr: float = 3e-4,
    decay: float = 0.01,
    batch: int = 32,
    epochs: int = 100,
) -> Regressor:
    """Train a network on features x (N, D) and values y (N,), and return it at the epoch with the least
    error on `val`, of equal ones the last.

    >>> x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    >>> found = mlp(x, 5 + x[:, 0], x, 5 + x[:, 0], lr=1e-2, epochs=20)
    >>> float(np.abs(found.predict(x) - 5 - x[:, 0]).mean()) < 0.1
    True
    """
    mean = float(y.mean())
    std = float(y.std()) or 1.0

    def standard(values: np.ndarray) -> Tensor:
        return torch.from_numpy(((values - mean) / std).astype(x.dtype))[:, None]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, 1)
        )
        optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=decay)
        features = torch.from_numpy(x)
        targets = standard(y)
        val = torch.from_numpy(val_x)
        val_targets = standard(val_y)
        order = torch.Generator().manual_seed(seed)
        least = float("inf")
        kept = (copy.deepcopy(module), 0)
        for epoch in range(1, epochs + 1):
            module.train()
            for rows in torch.randperm(len(features), generator=order).split(batch):
                optimizer.zero_grad(set_to_none=True)
                mse_loss(module(features[rows]), targets[rows]).backward()
                optimizer.step()
            module.eval()
            with torch.no_grad():
                error = float(mse_loss(module(val), val_targets))
            if error <= least:
                least = error
                kept = (copy.deepcopy(module), epoch)
    return Regressor(kept[0], mean, std, kept[1])
