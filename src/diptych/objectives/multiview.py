"""Contrastive losses of any number of views per instance, such as crops of an image, an image and
its captions, or any modalities with a shared embedding space.

Views are unit vectors U (N, M, D): N views of M instances, U[l, i] is instance i in view l; s = <·,
·> / tau, and P_i = Σ_{l≠m} exp s(U[l,i], U[m,i]) runs over the N(N-1) ordered pairs of views of
instance i.

    mv_infonce   all views of an instance at once, against all other embeddings
    mv_dhel      alignment across views, uniformity inside each view, no negatives across views
    nt_xent      two views (SimCLR's loss), and its extensions to more: `pairwise`, `average`, `poly_view`
    dhel, kcl    two views, decoupled; with kernels

Sums over views are sums: the weight of uniformity in `mv_dhel` grows with N. Memory is O(N · M ·
tile) (see `core`); half precision is computed in float32. Sources: Koromilas et al. 2025
(MV-InfoNCE, MV-DHEL), 2024 (DHEL, KCL); Chen et al. 2020 (NT-Xent); Shidani et al. 2024
(poly-view).

Dimensions: N views, M instances, D width.
"""

import itertools
import math
from typing import Literal

import torch
from torch import Tensor

from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.objectives.core import Allowed, normalisers, off_diagonal, pair_losses
from diptych.objectives.uniformity import uniformity

Form = Literal["code", "paper"]


def mv_infonce(
    views: Tensor, tau: float, *, form: Form = "code", tile: int | None = None
) -> Tensor:
    """MV-InfoNCE: one term per instance, with all its views against all other embeddings.

        L = mean_i [ log Σ_l Z[l,i] - log P_i ],   Z[l,i] = Σ exp s(U[l,i], U[m,j])

    With `form="code"`, Z runs over all (m, j) except (l, i), as in the published code; with
    "paper", over all j of the other views m ≠ l, including j = i. Raises InputError for fewer than
    two views or instances.

    >>> views = torch.eye(3).expand(3, 3, 3)
    >>> round(mv_infonce(views, 0.5).item(), 6)
    0.340753
    """
    count, instances = _check(views, form)
    flat = views.flatten(0, 1)
    allowed = (
        off_diagonal(views.device) if form == "code" else _other_views(instances, views.device)
    )
    by_row = normalisers(flat, flat, 1 / tau, allowed=allowed, tile=tile).unflatten(
        0, (count, instances)
    )
    return (by_row.logsumexp(0) - _positives(views, tau)).mean()


def mv_dhel(views: Tensor, tau: float, *, form: Form = "code", tile: int | None = None) -> Tensor:
    """MV-DHEL: alignment of all views of an instance, decoupled from uniformity inside each view.

        L = mean_i [ -log A_i + Σ_l log Σ_{j≠i} exp s(U[l,i], U[l,j]) ]

    With `form="code"`, A_i = P_i / 2, over unordered pairs; with "paper", A_i = P_i. They differ by
    log 2 and have equal gradients. Raises InputError for fewer than two views or instances.

    >>> views = torch.eye(3).expand(3, 3, 3)
    >>> round(mv_dhel(views, 0.5).item(), 6)
    -1.019171
    """
    _check(views, form)
    spread = torch.stack([_spread(view, tau, tile) for view in views])
    return (spread.sum(0) - _positives(views, tau)).mean() + (
        math.log(2) if form == "code" else 0.0
    )


def dhel(x: Tensor, y: Tensor, tau: float, *, both: bool = True, tile: int | None = None) -> Tensor:
    """DHEL of two views (M, D): alignment decoupled from uniformity. L = mean_i [ -s(x_i, y_i) +
    log Σ_{j≠i} exp s(x_i, x_j) + log Σ_{j≠i} exp s(y_i, y_j) ]

    It is `mv_dhel` of two views; `both=False` omits the last term.
    """
    views = torch.stack([x, y])
    _check(views, "code")
    with torch.autocast(x.device.type, enabled=False):
        x, y = at_least_float32(views)
        loss = _spread(x, tau, tile) - (x * y).sum(1) / tau
        return (loss + _spread(y, tau, tile) if both else loss).mean()


def kcl(
    x: Tensor, y: Tensor, *, t: float = 2.0, gamma: float = 16.0, tile: int | None = None
) -> Tensor:
    """Kernel contrastive loss of two views (M, D), k(a, b) = exp(-t |a - b|²).

    L = gamma · [ E(x) + E(y) ] - 2 mean_i k(x_i, y_i),   E = mean of k over the M(M-1)/2 distinct pairs of a view
    """
    views = torch.stack([x, y])
    _check(views, "code")
    with torch.autocast(x.device.type, enabled=False):
        x, y = at_least_float32(views)
        aligned = (-t * (x - y).square().sum(1)).exp().mean()
        return (
            gamma * (uniformity(x, t, tile=tile).exp() + uniformity(y, t, tile=tile).exp())
            - 2 * aligned
        )


def nt_xent(x: Tensor, y: Tensor, tau: float, *, tile: int | None = None) -> Tensor:
    """NT-Xent, SimCLR's loss of two views (M, D): each of the 2M embeddings is classified among the
    2M - 1 others.

    >>> x = torch.eye(2)
    >>> round(nt_xent(x, x, 1.0).item(), 4)  # log(e + 2) - 1
    0.5514
    """
    _check(torch.stack([x, y]), "code")
    flat = torch.cat([x, y])
    count = len(x)
    partner = torch.arange(2 * count, device=x.device).roll(count)
    return pair_losses(
        flat, flat, 1 / tau, targets=partner, allowed=off_diagonal(x.device), tile=tile
    ).mean()


def dcl(
    x: Tensor, y: Tensor, tau: float, *, sigma: float | None = None, tile: int | None = None
) -> Tensor:
    """DCL: NT-Xent of two views (M, D) with the partner left out of the normaliser.

        L = mean over the 2M of -w_i s_i + log Σ_{k≠i, k≠partner} exp s_ik,   s_i that of the partner

    w_i = 1, or with `sigma` w_i = 2 - exp(<x_i, y_i> / sigma) / mean_i exp(<x_i, y_i> / sigma),
    without gradient. Source: Yeh et al. 2022.

    >>> x = torch.eye(2)
    >>> round(dcl(x, x, 1.0).item(), 4)  # log 2 - 1
    -0.3069
    """
    views = torch.stack([x, y])
    _, count = _check(views, "code")
    flat = views.flatten(0, 1)

    spread = normalisers(flat, flat, 1 / tau, allowed=_other_instances(count, x.device), tile=tile)
    with torch.autocast(x.device.type, enabled=False):
        x, y = at_least_float32(views)
        cosine = (x * y).sum(1)
        weight = (
            torch.ones_like(cosine)
            if sigma is None
            else 2 - (cosine.detach() / sigma).softmax(0) * count
        )
        return spread.mean() - (weight * cosine).mean() / tau


def supervised(views: Tensor, labels: Tensor, tau: float, *, tile: int | None = None) -> Tensor:
    """SupCon of views (N, M, D): all views of one label are positives, with their mean outside the
    logarithm.

        L = mean over the N·M of -1/|P(i)| Σ_{p in P(i)} log [ exp s_ip / Σ_{k≠i} exp s_ik ]

    labels (M,): P(i) are the other views with the label of i. An instance with a negative label
    shares it with no other. An embedding without positives, as there may be with one view, is no
    anchor, and the mean is over anchors. Source: Khosla et al. 2020 (SupCon, L_out).

    >>> x = torch.eye(2).expand(2, 2, 2)
    >>> round(supervised(x, torch.tensor([0, 1]), 1.0).item(), 4)  # as NT-Xent: log(e + 2) - 1
    0.5514
    """
    count, instances = _check(views, "code", least=1)
    if labels.shape != (instances,):
        raise InputError(
            f"labels {tuple(labels.shape)} must be one for each of the {instances} instances"
        )
    own = torch.where(
        labels < 0, -1 - torch.arange(instances, device=labels.device), labels
    ).repeat(count)
    positive = (
        (own[:, None] == own).to(at_least_float32(views).dtype).fill_diagonal_(0)
    )  # in float64 for float64 views
    flat = views.flatten(0, 1)
    targets = positive / positive.sum(1, keepdim=True).clamp(min=1)
    return pair_losses(
        flat, flat, 1 / tau, targets=targets, allowed=off_diagonal(views.device), tile=tile
    ).mean()


def pairwise(views: Tensor, tau: float, *, tile: int | None = None) -> Tensor:
    """The mean of `nt_xent` over the N(N-1)/2 pairs of views (PWE)."""
    count, _ = _check(views, "code")
    pairs = itertools.combinations(range(count), 2)
    return torch.stack([nt_xent(views[a], views[b], tau, tile=tile) for a, b in pairs]).mean()


def average(views: Tensor, tau: float, *, tile: int | None = None) -> Tensor:
    """The mean over views of `nt_xent` of a view and the mean of the others, not normalised
    (AVG)."""
    count, _ = _check(views, "code")
    rest = (views.sum(0) - views) / (count - 1)
    return torch.stack([nt_xent(views[at], rest[at], tau, tile=tile) for at in range(count)]).mean()


def poly_view(views: Tensor, tau: float, *, tile: int | None = None) -> Tensor:
    """Poly-view loss: for each ordered pair (a, b) of views, U[a,i] is matched to U[b,i] against
    the views of all other instances (PVC).

        L = mean over a ≠ b and i of -log [ exp s(U[a,i], U[b,i]) / ( the same + Σ_m Σ_{j≠i} exp s(U[a,i], U[m,j]) ) ]

    This is the geometric form: it averages losses over views.
    """
    count, instances = _check(views, "code")
    flat = views.flatten(0, 1)
    allowed = _other_instances(instances, views.device)
    negatives = normalisers(flat, flat, 1 / tau, allowed=allowed, tile=tile).unflatten(
        0, (count, instances)
    )
    found = _similarities(views, tau)  # (M, N, N)
    loss = torch.logaddexp(negatives.T[:, :, None], found) - found
    return loss.masked_fill(torch.eye(count, dtype=torch.bool, device=views.device), 0).sum() / (
        instances * count * (count - 1)
    )


def _check(views: Tensor, form: str, least: int = 2) -> tuple[int, int]:
    if form not in ("code", "paper"):
        raise InputError(f"form is {form!r}; choose 'code' or 'paper'")
    if views.dim() != 3 or views.shape[0] < least or views.shape[1] < 2:
        few = "two views" if least == 2 else "a view"
        raise InputError(
            f"views of shape {tuple(views.shape)} cannot be contrasted; give (N, M, D), {few} of two "
            "instances at the least"
        )
    return views.shape[0], views.shape[1]


def _similarities(views: Tensor, tau: float) -> Tensor:
    """s of each pair of views of each instance (M, N, N)."""
    with torch.autocast(views.device.type, enabled=False):
        own = at_least_float32(views).transpose(0, 1)
        return own @ own.transpose(1, 2) / tau


def _positives(views: Tensor, tau: float) -> Tensor:
    """log P_i (M,)."""
    same = torch.eye(len(views), dtype=torch.bool, device=views.device)
    return _similarities(views, tau).masked_fill(same, -torch.inf).flatten(1).logsumexp(1)


def _spread(view: Tensor, tau: float, tile: int | None) -> Tensor:
    """log Σ_{j≠i} exp s(u_i, u_j) of each instance (M,)."""
    return normalisers(view, view, 1 / tau, allowed=off_diagonal(view.device), tile=tile)


def _other_instances(instances: int, device: torch.device) -> Allowed:
    """An `allowed` function for flat views (N·M, D): pairs of different instances."""

    def block(i: slice, j: slice) -> Tensor:
        rows, columns = (torch.arange(s.start, s.stop, device=device) % instances for s in (i, j))
        return rows[:, None] != columns

    return block


def _other_views(instances: int, device: torch.device) -> Allowed:
    """An `allowed` function for flat views (N·M, D): pairs of different views."""

    def block(i: slice, j: slice) -> Tensor:
        rows, columns = (torch.arange(s.start, s.stop, device=device) // instances for s in (i, j))
        return rows[:, None] != columns

    return block
