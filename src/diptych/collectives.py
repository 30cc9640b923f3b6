"""Communication between ranks: gather with gradient, batch norm over all ranks, exchange of Python
objects.

For W ranks to train as one process does, every rank computes the same loss of the same gathered
features, and the engine averages parameter gradients over ranks. The gradient of the loss with
respect to the gathered features is then the same on all ranks, and the backward pass of `gather`
gives each rank its own slice times W. The mean over ranks is the gradient of one process, both for
towers (each rank has its own samples) and for scale and bias (each rank has all samples). Without
an initialised process group there is one rank, and all functions are the identity.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from diptych.dtypes import at_least_float32
from diptych.errors import InputError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The rank of this process, 0 … world_size() - 1."""
    return dist.get_rank() if _distributed() else 0


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if _distributed() else 1


def _device() -> torch.device:
    """The device on which the backend expects tensors."""
    on_gpu = _distributed() and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


_DIMENSIONS = 8
_TYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


def _shapes(x: Tensor, name: str) -> list[tuple[int, ...]]:
    """The shape of a tensor on each rank.

    Raises the same InputError on all ranks if tensors differ behind the second dimension, or in
    type, since exchanging unequal sizes would crash the process group.
    """
    kind = _TYPES.index(x.dtype) if x.dtype in _TYPES else len(_TYPES)
    assert x.ndim <= _DIMENSIONS
    own = torch.tensor([kind, x.ndim, *x.shape, *([0] * (_DIMENSIONS - x.ndim))], device=x.device)
    all_own = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(all_own, own)
    kinds = [int(each[0]) for each in all_own]
    shapes = [tuple(each[2 : 2 + each[1]].tolist()) for each in all_own]
    for number, (kind, shape) in enumerate(zip(kinds, shapes, strict=True)):
        if kind != kinds[0] or len(shape) != len(shapes[0]) or shape[2:] != shapes[0][2:]:
            raise InputError(
                f"{name} is {_named(kinds[0])} {shapes[0]} on rank 0 and {_named(kind)} {shape} on rank {number}; over "
                "the ranks it may differ in its first two dimensions alone: pad it to one size"
            )
    return shapes


def _named(kind: int) -> str:
    return str(_TYPES[kind]) if kind < len(_TYPES) else "another type"


def _gather(x: Tensor, counts: Sequence[int]) -> Tensor:
    """All ranks' rows in rank order; rows are padded to the longest for the exchange."""
    padded = x.new_zeros((max(counts), *x.shape[1:]))
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, pad: float) -> Tensor:
        shapes = _shapes(x, name)
        counts = [shape[0] for shape in shapes]
        ctx.start = sum(counts[: rank()])
        ctx.shape = x.shape
        if x.ndim > 1:
            wider = max(shape[1] for shape in shapes) - x.shape[1]
            x = F.pad(x, (*[0, 0] * (x.ndim - 2), 0, wider), value=pad) if wider else x
        return _gather(x.contiguous(), counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        own = grad[ctx.start : ctx.start + ctx.shape[0]]
        if len(ctx.shape) > 1:
            own = own[:, : ctx.shape[1]]
        return world_size() * own, None, None


def gather(x: Tensor, name: str = "a tensor", *, pad: float = 0) -> Tensor:
    """Concatenate a tensor over ranks along its first dimension, (n_r, m_r, …) on rank r to (n_0 +
    n_1 + …, max m_r, …).

    Ranks may hold different numbers of rows, also none. If the second dimension differs, such as
    the length of texts, shorter ones are filled with `pad`. Backward gives rank r its own part of
    the incoming gradient, times the number of ranks (see the module docstring). This is exact if
    every rank computes the same loss and parameter gradients are averaged over ranks. Raises
    InputError, which calls the tensor `name`, on all ranks if tensors differ in another dimension
    or in type.

    >>> gather(torch.arange(3)).tolist()
    [0, 1, 2]
    """
    if world_size() == 1:
        return x
    return _Gather.apply(x, name, pad)  # type: ignore[return-value]


class _Exchange(_Gather):
    """As `_Gather`, but ranks use the rows differently, so the gradient is the sum of theirs."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        own = total[ctx.start : ctx.start + ctx.shape[0]]
        return own[:, : ctx.shape[1]] if len(ctx.shape) > 1 else own, None, None


def exchange(x: Tensor, name: str = "a tensor", *, pad: float = 0) -> Tensor:
    """Concatenate a tensor over ranks, as `gather` does, for ranks that compute different things of it.

    Backward gives rank r the sum of all ranks' gradients of its part. This is exact if what each rank
    computes of it is gathered again before the loss. All ranks must need a gradient, or none.

    >>> exchange(torch.arange(3)).tolist()
    [0, 1, 2]
    """
    if world_size() == 1:
        return x
    return _Exchange.apply(x, name, pad)  # type: ignore[return-value]


class _Sum(torch.autograd.Function):
    """Sum over ranks. Ranks use the sum differently, so the gradient is the sum of their
    gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _Mean(torch.autograd.Function):
    """Mean of the rows of all ranks. Each rank computes the same loss of it, so that a rank's rows
    get the whole gradient, times the number of ranks as in `gather`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        counts = [shape[0] for shape in _shapes(x, name)]
        ctx.rows = len(x)
        ctx.total = sum(counts)
        total = x.sum(0)
        dist.all_reduce(total)
        return total / ctx.total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        own = world_size() * grad / ctx.total
        return own.expand(ctx.rows, *grad.shape), None


def mean(x: Tensor, name: str = "a tensor") -> Tensor:
    """The mean (…) of the rows of a tensor (n_r, …) over all ranks; backward as in `gather`.

    >>> mean(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [2.0, 3.0]
    """
    if world_size() == 1:
        return x.mean(0)
    return _Mean.apply(x, name)  # type: ignore[return-value]


def gather_objects(value: Any) -> list[Any]:
    """Gather one picklable object of every rank, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: Any) -> Any:
    """Return rank 0's object on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=_device())
    return box[0]


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is true on at least one rank; the same result on all ranks, in one
    exchange.

    >>> any_rank(False, True)
    (False, True)
    """
    if world_size() == 1:
        return tuple(bool(flag) for flag in flags)
    answers = torch.tensor([int(flag) for flag in flags], device=_device())
    dist.all_reduce(answers, op=dist.ReduceOp.MAX)
    return tuple(bool(answer) for answer in answers.tolist())


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over ranks; a missing gradient counts as 0 if another rank
    has one.

    Gradients of sharded parameters are not changed, since FSDP has averaged them.
    """
    if world_size() == 1:
        return
    trainable = [p for p in parameters if p.requires_grad and not is_sharded(p)]
    somewhere = any_rank(*(parameter.grad is not None for parameter in trainable))
    for parameter, has in zip(trainable, somewhere, strict=True):
        if has and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [
        p.grad for p, has in zip(trainable, somewhere, strict=True) if has and p.grad is not None
    ]
    waiting = [
        dist.all_reduce(gradient.div_(world_size()), async_op=True) for gradient in gradients
    ]
    for work in waiting:
        assert work is not None
        work.wait()


def is_sharded(x: Tensor) -> "TypeGuard[DTensor]":
    """Whether a tensor is sharded over ranks (DTensor).

    It does not import the class, which loads torch's symbolic shapes, for half a second.

    >>> is_sharded(torch.arange(3))
    False
    """
    return hasattr(x, "to_local")


def local_part(x: Tensor) -> Tensor:
    """This rank's part of a tensor sharded over ranks; others unchanged.

    >>> local_part(torch.arange(3)).tolist()
    [0, 1, 2]
    """
    return x.to_local() if is_sharded(x) else x


def full_tensor(x: Tensor) -> Tensor:
    """The whole of a tensor sharded over ranks (DTensor), on every rank, without gradient; others
    unchanged.

    It uses the synchronous gather: `DTensor.full_tensor` uses asynchronous collectives, in which
    ranks on a CPU have crashed with a double free.

    >>> full_tensor(torch.arange(3)).tolist()
    [0, 1, 2]
    """
    if not is_sharded(x):
        return x
    from torch.distributed.tensor import Shard

    (placement,) = x.placements  # one mesh, of all ranks
    local = x.to_local().detach()
    if not isinstance(placement, Shard):
        assert placement.is_replicate(), f"a tensor that is {placement} is not put together here"
        return local
    length = x.shape[placement.dim]
    share = -(-length // world_size())  # as torch.chunk cuts
    counts = [max(0, min(share, length - share * number)) for number in range(world_size())]
    return _gather(local.movedim(placement.dim, 0).contiguous(), counts).movedim(0, placement.dim)


def shared(x: Tensor, like: Tensor) -> Tensor:
    """The inverse of `full_tensor`: this rank's part of `x`, sharded as `like`; `x` itself if
    `like` is not sharded.

    >>> shared(torch.arange(3), torch.zeros(3)).tolist()
    [0, 1, 2]
    """
    if not is_sharded(like):
        return x
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)


def barrier() -> None:
    """Wait until every rank has reached this call."""
    if world_size() > 1:
        dist.barrier()


def patient_barrier(patience: timedelta = timedelta(days=30)) -> Callable[[], None]:
    """Return a barrier for ranks that may be done hours before another, longer than a process
    group waits.

    All ranks call this function at about the same time. The barrier raises RuntimeError at once if
    a rank has ended.

    >>> patient_barrier()()
    """
    if world_size() == 1:
        return lambda: None
    group = dist.new_group(backend="gloo", timeout=patience)
    assert isinstance(group, dist.ProcessGroup)

    def wait() -> None:
        dist.barrier(group=group)

    return wait


class BatchNorm(_BatchNorm):
    """Batch norm with statistics over all ranks' samples, on any device (torch's SyncBatchNorm
    excludes the CPU).

        y = (x - mean) / sqrt(var + eps) * weight + bias,      x (n_r, C) or (n_r, C, …) on rank r

    Values, running statistics and gradients equal those of one process with all samples; ranks may
    hold different numbers of samples. Options and state dict are those of `nn.BatchNorm2d`. In
    evaluation mode, or with one rank, it is ordinary batch norm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm takes (N, C) or (N, C, …), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        by_batch = self.training or self.running_mean is None
        if not by_batch or world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        over = [0, *range(2, input.dim())]
        shape = (1, -1, *(1 for _ in over[1:]))
        x = at_least_float32(input)
        count = x.new_tensor([x.numel() / x.shape[1]])
        # Two reductions, not one of x and x²: subtracting the mean before squaring keeps the
        # precision of small variances.
        sums = _Sum.apply(torch.cat([x.sum(over), count]))
        total = sums[-1]  # type: ignore[index]
        mean = sums[:-1] / total  # type: ignore[index]
        n = total.detach()
        if n <= 1:
            raise ValueError(
                f"batch norm needs more than one value a channel over all ranks, got {tuple(input.shape)}"
            )
        centred = x - mean.view(shape)
        var = _Sum.apply(centred.square().sum(over)) / n  # type: ignore[operator]
        self._track(mean.detach(), var.detach() * (n / (n - 1)))
        y = centred * torch.rsqrt(var + self.eps).view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape)
        if self.bias is not None:
            y = y + self.bias.view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Update the running statistics with those of the batch (unbiased variance, as in
        torch)."""
        if (
            self.running_mean is None
            or self.running_var is None
            or self.num_batches_tracked is None
        ):
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(var.to(self.running_var.dtype), share)


def convert_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every torch batch norm in `module` by `BatchNorm`, keeping parameters, statistics and
    names.

    Raises InputError for a subclass of torch's batch norm whose forward would be lost.

    >>> type(convert_batch_norm(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)))[1]).__name__
    'BatchNorm'
    """
    for name, child in module.named_children():
        setattr(module, name, convert_batch_norm(child))
    if not isinstance(module, _BatchNorm) or isinstance(module, BatchNorm):
        return module
    layers = [
        getattr(module, name)
        for name in ("drop", "act")
        if isinstance(getattr(module, name, None), nn.Module)
    ]
    if type(module) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) and len(layers) < 2:
        raise InputError(
            f"{type(module).__name__} does more than batch norm; give the tower a plain one"
        )
    new = _WithActivation if layers else BatchNorm
    norm = new(
        module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
    )
    if layers:  # timm's norm with a following activation
        norm.drop, norm.act = layers
    norm.weight = module.weight
    norm.bias = module.bias
    norm.running_mean = module.running_mean
    norm.running_var = module.running_var
    norm.num_batches_tracked = module.num_batches_tracked
    return norm.train(module.training)


class _WithActivation(BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))  # type: ignore[operator]
