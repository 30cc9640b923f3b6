"""Sharding over the ranks: FSDP2, torch's `fully_shard`, in place of DDP.

Of each parameter with its gradient and its optimiser state, rank r of W keeps about a W-th (rows of
its first dimension) as a DTensor. Each block of a transformer is gathered before it runs, forward
and backward, and freed afterwards; parameters outside of blocks (embeddings, projections, towers of
other kinds) are gathered for a whole step. Gradients are averaged over the ranks, as in DDP.
Scalars (scale, bias) cannot be sharded: each rank keeps them, and their gradients are averaged as
in a step without DDP.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from diptych import collectives
from diptych.errors import InputError
from diptych.methods.base import Method
from diptych.towers.nn.parts import Frozen, Momentum
from diptych.towers.nn.transformer import BLOCKS
from diptych.training.replicated import Replicated
from diptych.training.step import Step


class Sharded(Replicated):
    """Each rank keeps its share of the parameters, on one mesh of all ranks."""

    units: list[FSDPModule]  # modules that are gathered and freed as a whole, the step first
    empty: nn.Module  # the delivered module without its weights

    def begin(self, step: Step, average: Momentum | None) -> None:
        check(step.method)
        collectives.convert_batch_norm(step.method)
        self.empty = _without_weights(step.method.deliver())
        mesh = init_device_mesh(self.accelerator.device.type, (collectives.world_size(),))
        for parameter in step.parameters():
            parameter.data = (
                parameter.data.contiguous()
            )  # torch cannot shard other layouts, such as channels last
        marked = {
            name
            for name, parameter in step.named_parameters()
            if getattr(parameter, "frozen", False)
        }
        scalars = {parameter for parameter in step.parameters() if parameter.ndim == 0}
        for block in [module for module in step.modules() if isinstance(module, BLOCKS)]:
            fully_shard(block, mesh=mesh)
        fully_shard(step, mesh=mesh, ignored_params=scalars)
        for (
            name,
            parameter,
        ) in step.named_parameters():  # sharding makes new objects, without the attribute
            if name in marked:
                parameter.frozen = True  # type: ignore[attr-defined]
        if average is not None:
            _share_average(average)
        self.units = [module for module in step.modules() if isinstance(module, FSDPModule)]
        for name in ("encode", "terms", "settle"):  # called in addition to forward
            register_fsdp_forward_method(step, name)
        step.settle()
        self.units[0].reshard()

    def wrap(self, step: Step, chunk: int | None) -> nn.Module:
        return step

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        for unit in self.units:
            unit.reshard()  # units that last ran without gradient are still gathered
        sharded = [p for p in parameters if isinstance(p, DTensor)]
        copied = [p for p in parameters if not isinstance(p, DTensor)]
        own = nn.utils.get_total_norm(
            [p.grad.to_local() for p in sharded if isinstance(p.grad, DTensor)]
        )
        rest = nn.utils.get_total_norm([p.grad for p in copied if p.grad is not None])
        total = torch.cat([collectives.gather(own[None]), rest[None].to(own)]).norm()
        for kind in (sharded, copied):
            nn.utils.clip_grads_with_norm_(kind, max_norm, total)
        return total

    @contextmanager
    def gathered(self) -> Iterator[None]:
        step, *others = self.units
        step.set_reshard_after_forward(False)  # no communication between ranks until the end
        for unit in self.units:
            unit.unshard()
        try:
            yield
        finally:
            for unit in others:
                unit.set_reshard_after_forward(True, recurse=False)
            # `reshard` alone is not enough: FSDP recorded what ran here, to prefetch it in the next
            # backward; each rank ran something else, so they would wait for one another.
            step.reset_iter_state()

    @contextmanager
    def plain(self, module: nn.Module) -> Iterator[nn.Module | None]:
        state = self.full_tensors(dict(module.state_dict()))
        if collectives.rank() > 0:
            yield None
            return
        self.empty.load_state_dict(
            {n: v.to(self.accelerator.device) for n, v in state.items()}, assign=True
        )
        try:
            yield self.empty
        finally:
            self.empty = _without_weights(self.empty)

    def full_tensors(self, tree: Any) -> Any:
        if isinstance(tree, DTensor):
            full = collectives.full_tensor(tree)
            return full.cpu() if collectives.rank() == 0 else None
        if isinstance(tree, dict):
            return {key: self.full_tensors(value) for key, value in tree.items()}
        return (
            [self.full_tensors(value) for value in tree] if isinstance(tree, list | tuple) else tree
        )

    def load(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        numbers = chain.from_iterable(group["params"] for group in state["param_groups"])
        parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
        shared = {
            number: {
                name: _share(value, parameter)
                for name, value in state["state"].get(number, {}).items()
            }
            for number, parameter in zip(numbers, parameters, strict=True)
        }
        optimizer.load_state_dict(
            {**state, "state": {n: values for n, values in shared.items() if values}}
        )


def check(method: Method) -> None:
    """Raise InputError if torch is too old, or if ranks could disagree on which gradients exist and
    wait forever."""
    if not hasattr(FSDPModule, "reset_iter_state"):
        raise InputError(
            f"--shard needs a newer torch than {torch.__version__}, such as 2.13; update it"
        )
    if method.find_unused_parameters:
        raise InputError(
            f"a step of {type(method).__name__} may leave some parameters without a gradient "
            "(find_unused_parameters = True), which shards cannot take; leave --shard out"
        )


def _without_weights(module: nn.Module) -> nn.Module:
    """Return a copy whose parameters are on the meta device; frozen models are shared, not
    copied."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
        for p in module.parameters()
    }
    memo |= {id(part.module): part.module for part in module.modules() if isinstance(part, Frozen)}
    return copy.deepcopy(module, memo)


def _share_average(average: Momentum) -> None:
    """Shard the averaged weights like those that they follow; without FSDP, since they never
    run."""
    slow = list(average.module.parameters())
    fast = average.online.parameters()
    shares = {
        id(p): nn.Parameter(collectives.shared(p.data, like), requires_grad=False)
        for p, like in zip(slow, fast, strict=True)
    }
    for part in average.module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, shares[id(parameter)])


def _share(value: Any, parameter: Tensor) -> Any:
    """Return this rank's share of a tensor with the shape of a parameter."""
    if (
        not isinstance(parameter, DTensor)
        or not isinstance(value, Tensor)
        or value.shape != parameter.shape
    ):
        return value
    return collectives.shared(value.to(parameter.device), parameter)
