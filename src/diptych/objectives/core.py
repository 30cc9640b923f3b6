"""The core of the contrastive objectives: losses of the rows (and columns) of a matrix of logits
that is never stored whole.

    logits   S_ij = scale · <x_i, y_j> + bias               rows x (R, D), columns y (C, D)
    row      loss_i = Σ_j T_ij · N_i - Σ_j T_ij S_ij        normaliser N_i = log Σ_j A_ij exp(S_ij)

T are the targets; A selects the pairs in the normaliser. The two are independent: positives may be
left out of the denominator, and pairs may be excluded altogether. With `softmax=False` the pairs do
not compete. Each is a binary classification, and the loss of a row is loss_i = N_i - Σ_j T_ij S_ij
with N_i = Σ_j A_ij softplus(S_ij). Columns are the rows of the transpose; both use the same blocks
of logits.

The dot products Σ_j T_ij S_ij = <x_i, scale · Σ_j T_ij y_j> + … need no logits. The normalisers do:
they are computed in strips of `tile` rows and recomputed in the backward pass, so that O(tile · C)
memory is used at a time and O((R + C) · D) is kept from forward to backward. The mean of the binary
losses needs no recomputation: the gradient of a strip is known up to one factor as soon as its
logits are.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from diptych.errors import InputError

Allowed = Tensor | Callable[[slice, slice], Tensor]
"""(R, C) bool, or weights >= 0 of the pairs in the normaliser; or a function that returns the block
of two slices."""

Targets = Tensor | None
"""None: row i matches column i. (R,) long: the column of each row, -1 for none. (R, C) float:
weights, possibly sparse."""


class RowLosses(NamedTuple):
    """The loss of each row (R,), and which rows are alive: those with a target and allowed pairs.

    The loss of a row that is not alive is 0.
    """

    loss: Tensor
    alive: Tensor

    def mean(self) -> Tensor:
        """The mean over the rows that are alive; 0 if there are none."""
        return self.loss.sum() / self.alive.sum().clamp(min=1)


def pair_losses(
    rows: Tensor,
    columns: Tensor,
    scale: Tensor | float,
    bias: Tensor | float | None = None,
    *,
    targets: Targets = None,
    allowed: Allowed | None = None,
    softmax: bool = True,
    smoothing: float = 0.0,
    tile: int | None = None,
) -> RowLosses:
    """The losses of R rows x (R, D) among C columns y (C, D); see the module docstring for the
    equation.

    `smoothing` e changes the targets to (1 - e) T + e/C. `tile` is the number of rows in a strip;
    None chooses it by memory. Half precision is computed in float32. Gradients reach x, y, scale
    and bias, but not the targets; double backward is not supported. Raises InputError for shapes
    that do not match.

    >>> x = torch.eye(2)
    >>> pair_losses(x, x, 1.0, targets=torch.tensor([0, -1]))  # log(e + 1) - 1; the second row is not alive
    RowLosses(loss=tensor([0.3133, 0.0000]), alive=tensor([ True, False]))
    """
    return _losses(rows, columns, scale, bias, (targets,), allowed, softmax, smoothing, tile)[0]


def both_losses(
    rows: Tensor,
    columns: Tensor,
    scale: Tensor | float,
    bias: Tensor | float | None = None,
    *,
    targets: tuple[Targets, Targets] = (None, None),
    allowed: Allowed | None = None,
    smoothing: float = 0.0,
    tile: int | None = None,
) -> tuple[RowLosses, RowLosses]:
    """`pair_losses` of rows among columns and of columns among rows, from the same logits.

    `targets` are (R, C) for the rows and (C, R) for the columns, or indices (R,) and (C,). The
    softmax is always used.
    """
    by_row, by_column = _losses(rows, columns, scale, bias, targets, allowed, True, smoothing, tile)
    return by_row, by_column


def normalisers(
    rows: Tensor,
    columns: Tensor,
    scale: Tensor | float,
    bias: Tensor | float | None = None,
    *,
    allowed: Allowed | None = None,
    tile: int | None = None,
) -> Tensor:
    """Only the normalisers N_i of the rows (R,), for objectives without targets; -inf if no pair is
    allowed.

    >>> x = torch.eye(2)
    >>> normalisers(x, x, 1.0)  # log(e + 1)
    tensor([1.3133, 1.3133])
    """
    with torch.autocast(rows.device.type, enabled=False):
        x, y, scale, bias = _prepared(rows, columns, scale, bias)
        return _Normalisers.apply(x, y, scale, bias, allowed, True, False, tile or _tile(x, y))[0]  # type: ignore[index]


def off_diagonal(device: torch.device) -> Allowed:
    """An `allowed` function that excludes the diagonal: a point is not paired with itself."""

    def block(i: slice, j: slice) -> Tensor:
        return torch.arange(i.start, i.stop, device=device)[:, None] != torch.arange(
            j.start, j.stop, device=device
        )

    return block


def group_targets(groups: Tensor, *, share: bool = True) -> Tensor:
    """Sparse targets (B, B) for which all members of a row's group are positives; groups (B,) long.

    Each positive has weight 1 / (size of the group), or 1 with `share=False`.

    >>> group_targets(torch.tensor([5, 7, 5])).to_dense()
    tensor([[0.5000, 0.0000, 0.5000],
            [0.0000, 1.0000, 0.0000],
            [0.5000, 0.0000, 0.5000]])
    """
    _, group, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    places = torch.arange(len(group), device=groups.device)
    order = group.argsort(stable=True)
    starts = (sizes.cumsum(0) - sizes)[group]
    mine = sizes[group]
    rows = places.repeat_interleave(mine)
    within = torch.arange(len(rows), device=groups.device) - (
        mine.cumsum(0) - mine
    ).repeat_interleave(mine)
    columns = order[starts.repeat_interleave(mine) + within]
    values = 1 / mine[rows] if share else torch.ones(len(rows), device=groups.device)
    shape = (len(group), len(group))
    return torch.sparse_coo_tensor(
        torch.stack([rows, columns]), values, shape, check_invariants=False
    )


def different_group(groups: Tensor) -> Allowed:
    """An `allowed` function that excludes other members of a row's group, except its partner;
    groups (B,) long."""

    different: Any = off_diagonal(groups.device)

    def block(i: slice, j: slice) -> Tensor:
        return (groups[i, None] != groups[j]) | ~different(i, j)

    return block


def sigmoid_mean(
    rows: Tensor,
    columns: Tensor,
    scale: Tensor | float,
    bias: Tensor | float | None = None,
    *,
    targets: Targets = None,
    allowed: Allowed | None = None,
    tile: int | None = None,
) -> Tensor:
    """`pair_losses(…, softmax=False).mean()` with three matrix products of the logits' size instead
    of four.

    If a gradient is needed, the forward pass computes it strip by strip. A mean has one upstream
    gradient for all pairs, so the gradient is kept as two matrices (R, D) and (C, D), and no logits
    are recomputed.

    >>> x = torch.eye(2)
    >>> sigmoid_mean(x, x, 10.0, -5.0)  # two pairs a row, each log(1 + e^-5)
    tensor(0.0134)
    """
    with torch.autocast(rows.device.type, enabled=False):
        x, y, scale, bias = _prepared(rows, columns, scale, bias)
        tile = tile or _tile(x, y)
        given = [tensor for tensor in (x, y, scale, bias) if tensor is not None]
        wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        alive = _any_allowed(allowed, x, y, tile)
        total = _SigmoidTotal.apply(x, y, scale, bias, targets, allowed, alive, tile, wanted)
        return total / alive.sum().clamp(min=1)  # type: ignore[operator]


def _prepared(
    rows: Tensor, columns: Tensor, scale: Tensor | float, bias: Tensor | float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """All four inputs in one dtype, float32 or wider."""
    if rows.dim() != 2 or columns.dim() != 2 or rows.shape[1] != columns.shape[1]:
        raise InputError(
            f"rows {tuple(rows.shape)} and columns {tuple(columns.shape)} must be (R, D) and (C, D)"
        )
    dtype = torch.promote_types(torch.promote_types(rows.dtype, columns.dtype), torch.float32)
    like = {"dtype": dtype, "device": rows.device}
    scale = torch.as_tensor(scale, **like).reshape(())
    bias = None if bias is None else torch.as_tensor(bias, **like).reshape(())
    return rows.to(dtype), columns.to(dtype), scale, bias


def _losses(
    rows: Tensor,
    columns: Tensor,
    scale: Tensor | float,
    bias: Tensor | float | None,
    targets: tuple[Targets, ...],
    allowed: Allowed | None,
    softmax: bool,
    smoothing: float,
    tile: int | None,
) -> list[RowLosses]:
    with torch.autocast(rows.device.type, enabled=False):
        x, y, scale, bias = _prepared(rows, columns, scale, bias)
        tile = tile or _tile(x, y)
        normalisers = _Normalisers.apply(
            x, y, scale, bias, allowed, softmax, len(targets) == 2, tile
        )
        sides = [(x, y), (y, x)]
        losses = []
        for (own, other), target, normaliser in zip(sides, targets, normalisers, strict=False):  # type: ignore[arg-type]
            weight, dot = _target_logits(own, other, scale, bias, target, smoothing)
            # NaN is alive: it must reach the loss
            alive = (
                ~((weight <= 0) | (normaliser == -torch.inf))
                if softmax
                else _any_allowed(allowed, x, y, tile)
            )
            loss = (weight if softmax else 1) * normaliser.masked_fill(~alive, 0) - dot.masked_fill(
                ~alive, 0
            )
            losses.append(RowLosses(loss, alive))
    return losses


def _tile(x: Tensor, y: Tensor) -> int:
    """The rows of a strip: 8 MB of float32 on a CPU, which fits the cache; 64 MB on a GPU."""
    return max(64, (1 << (21 if x.device.type == "cpu" else 24)) // max(len(y), 1))


def _target_logits(
    x: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None, targets: Targets, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Σ_j T_ij and Σ_j T_ij S_ij, without the logits: scale · <x_i, Σ_j T_ij y_j> + bias · Σ_j
    T_ij."""
    if targets is None:
        if len(x) > len(y):
            raise InputError(
                f"{len(x)} rows have no partner each among {len(y)} columns; give targets"
            )
        weight = x.new_ones(len(x))
        mixed = y[: len(x)]
    elif not targets.is_floating_point():
        if targets.shape != (len(x),):
            raise InputError(
                f"targets {tuple(targets.shape)} must be one column for each of the {len(x)} rows"
            )
        weight = (targets >= 0).to(x.dtype)
        mixed = y[targets.clamp(min=0)] * weight[:, None]
    else:
        if targets.shape != (len(x), len(y)):
            raise InputError(
                f"targets {tuple(targets.shape)} must be ({len(x)}, {len(y)}), a weight for each pair"
            )
        soft = targets.detach().to(x.dtype)
        weight = torch.sparse.sum(soft, 1).to_dense() if soft.is_sparse else soft.sum(1)
        mixed = soft @ y
    if smoothing:
        mixed = (1 - smoothing) * mixed + smoothing * (weight > 0).to(x.dtype)[:, None] * y.mean(0)
        weight = (1 - smoothing) * weight + smoothing * (weight > 0).to(x.dtype)
    dot = scale * (x * mixed).sum(1)
    return weight, dot if bias is None else dot + bias * weight


def _strips(count: int, tile: int) -> Iterator[slice]:
    return (slice(start, min(start + tile, count)) for start in range(0, count, tile))


def _block(allowed: Allowed, i: slice, j: slice) -> Tensor:
    return allowed(i, j) if callable(allowed) else allowed[i, j]


def _any_allowed(allowed: Allowed | None, x: Tensor, y: Tensor, tile: int) -> Tensor:
    """Which rows (R,) have an allowed pair in their normaliser."""
    if allowed is None:
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    return torch.cat(
        [(_block(allowed, i, slice(0, len(y))) > 0).any(1) for i in _strips(len(x), tile)]
    )


class _Normalisers(torch.autograd.Function):
    """N_i of the rows and, if `both`, of the columns, strip by strip; backward recomputes each
    strip."""

    @staticmethod
    def forward(ctx: Any, x, y, scale, bias, allowed, softmax, both, tile):
        ctx.options = allowed, softmax, tile
        ctx.set_materialize_grads(False)
        by_row = x.new_empty(len(x))
        by_column = x.new_full((len(y),), -torch.inf if softmax else 0)
        for i in _strips(len(x), tile):
            logits, weights = _strip(x, y, scale, bias, allowed, i, softmax)
            if softmax:
                by_row[i] = _logsumexp(logits, 1)
                if both:
                    by_column = torch.logaddexp(by_column, _logsumexp(logits, 0))
            else:
                by_row[i] = _softplus(logits, weights).sum(1)
        ctx.save_for_backward(x, y, scale, bias, by_row, by_column if both else None)
        return (by_row, by_column) if both else (by_row,)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None):  # type: ignore[override]
        by_row = grads[0]
        by_column = grads[1] if len(grads) > 1 else None
        if by_row is None and by_column is None:
            return (None,) * 8
        x, y, scale, bias, *normalisers = ctx.saved_tensors
        allowed, softmax, tile = ctx.options
        of_x, of_y, of_scale, of_bias, *_ = ctx.needs_input_grad
        grad_x = torch.zeros_like(x) if of_x or of_scale else None
        grad_y = torch.zeros_like(y) if of_y else None
        grad_bias = torch.zeros_like(scale) if of_bias else None
        # The gradient of an empty normaliser is 0: exp(-inf - inf) is 0, while exp(-inf + inf) is
        # NaN.
        safe = [
            None if n is None else n.masked_fill(n == -torch.inf, torch.inf) for n in normalisers
        ]
        with torch.autocast(x.device.type, enabled=False):
            for i in _strips(len(x), tile):
                logits, weights = _strip(x, y, scale, bias, allowed, i, softmax)
                if softmax:
                    grad = _softmax_grad(logits, i, safe, by_row, by_column)
                else:
                    grad = logits.sigmoid_().mul_(by_row[i, None])  # type: ignore[index]
                    grad = grad if weights is None else grad.mul_(weights)
                if grad_x is not None:
                    torch.mm(grad, y, out=grad_x[i])
                if grad_y is not None:
                    grad_y.addmm_(grad.T, x[i])
                if grad_bias is not None:
                    grad_bias += grad.sum()
        # S = scale · <x, y>, so dL/dscale = Σ_i <x_i, (G y)_i> needs no further product.
        grad_scale = (x * grad_x).sum() if of_scale else None
        of = [
            None if grad is None else grad.mul_(scale)
            for grad in (grad_x if of_x else None, grad_y)
        ]
        return *of, grad_scale, grad_bias, None, None, None, None


class _SigmoidTotal(torch.autograd.Function):
    """Σ_ij A_ij softplus(S_ij) - Σ_ij T_ij S_ij over rows that are alive; if `wanted`, with its
    gradients."""

    @staticmethod
    def forward(ctx: Any, x, y, scale, bias, targets, allowed, alive, tile, wanted):
        dots, grads = _target_total(x, y, scale, bias, targets, alive, wanted)
        total = -dots
        grad_x = torch.empty_like(x) if wanted else None
        grad_y = torch.zeros_like(y) if wanted else None
        grad_bias = torch.zeros_like(scale)
        for i in _strips(len(x), tile):
            logits, weights = _strip(x, y, scale, bias, allowed, i, False)
            total += _softplus(logits, weights).sum()
            if wanted:
                grad = logits.sigmoid_()
                grad = grad if weights is None else grad.mul_(weights)
                torch.mm(grad, y, out=grad_x[i])  # type: ignore[index]
                grad_y.addmm_(grad.T, x[i])  # type: ignore[union-attr]
                grad_bias += grad.sum()
        if wanted:
            grad_scale = (x * grad_x).sum()  # as in _Normalisers
            whole = grad_x.mul_(scale), grad_y.mul_(scale), grad_scale, grad_bias  # type: ignore[union-attr]
            for own, of_dots in zip(whole, grads, strict=False):
                own.sub_(of_dots)
            ctx.save_for_backward(*whole)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):  # type: ignore[override]
        saved = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        return (
            *(own * grad if needed else None for own, needed in saved),
            None,
            None,
            None,
            None,
            None,
        )


def _target_total(
    x, y, scale, bias, targets: Targets, alive: Tensor, wanted: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Σ_ij T_ij S_ij over the rows that are alive and, if `wanted`, its gradients."""
    leaves = [
        None if tensor is None else tensor.detach().requires_grad_()
        for tensor in (x, y, scale, bias)
    ]
    with torch.set_grad_enabled(wanted):
        _, dot = _target_logits(*leaves, targets, 0.0)  # type: ignore[arg-type]
        total = dot.masked_fill(~alive, 0).sum()
        grads = (
            torch.autograd.grad(total, [leaf for leaf in leaves if leaf is not None])
            if wanted
            else ()
        )
    return total.detach(), grads


def _softplus(logits: Tensor, weights: Tensor | None) -> Tensor:
    """log(1 + exp) of the logits, weighted; from 40 on it equals the identity in double
    precision."""
    values = F.softplus(logits, threshold=40)
    return values if weights is None else values.mul_(weights)


def _strip(x, y, scale, bias, allowed, i: slice, softmax: bool) -> tuple[Tensor, Tensor | None]:
    """The logits of rows i (t, C), and the weights that cannot be folded into them."""
    logits = (x[i] * scale) @ y.T if bias is None else torch.addmm(bias, x[i] * scale, y.T)
    if allowed is None:
        return logits, None
    block = _block(allowed, i, slice(0, len(y)))
    if not softmax:
        return logits, block.to(logits.dtype)
    if block.dtype == torch.bool:
        return logits.masked_fill_(~block, -torch.inf), None
    return logits.add_(block.to(logits.dtype).log()), None


def _softmax_grad(
    logits: Tensor, i: slice, normalisers, by_row: Tensor | None, by_column: Tensor | None
) -> Tensor:
    """dL/dS of a strip: exp(S_ij - N_i) g_i + exp(S_ij - M_j) h_j."""
    grad = None
    if by_row is not None:
        grad = _exp_(logits - normalisers[0][i, None]).mul_(by_row[i, None])
    if by_column is None:
        assert grad is not None
        return grad
    other = _exp_(logits.sub_(normalisers[1]))
    return (
        other.mul_(by_column) if grad is None else grad.addcmul_(other, by_column.expand_as(other))
    )


_LEAST = -87.0
"""exp of it is about the smallest float32 of full precision; below, results have fewer and fewer bits."""


def _exp_(x: Tensor) -> Tensor:
    """exp, in place. On a CPU in float32, results below exp(-87) are 0.

    Such results are exact zeros beside a normaliser, and torch, whose exp is MKL's there, takes 20
    to 50 times as long for each of them, which at a scale of 100 are most of a batch.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return x.exp_()
    return F.threshold(x.clamp_(min=_LEAST).exp_(), math.exp(_LEAST) * 1.01, 0.0, inplace=True)


def _logsumexp(x: Tensor, dim: int) -> Tensor:
    """log Σ exp along `dim`, with the exp above."""
    top = x.amax(dim, keepdim=True)
    top = top.masked_fill(top.isinf(), 0)  # -inf - -inf is NaN
    return _exp_(x - top).sum(dim).log_().add_(top.squeeze(dim))
