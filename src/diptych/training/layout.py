"""How a step is laid out over devices, from its counted costs: memory, time and the flags of
`diptych train`.

Memory of a device is the sum of

    state         weights, gradients, optimiser state, averaged weights; the copy that DDP sends.
                  Sharded over W devices a W-th of each, and whole what FSDP gathers: the weights
                  outside of blocks with their gradients, and two blocks
    activations   what backward keeps of the samples that are encoded at a time
    batch         the device's samples, and the features of the global batch with their gradients
    loss          what the loss of the global batch keeps
    allowance     10 % of these for temporaries and fragmentation, and 1.5 GB for the libraries

and a step is as long as its operations take at a share `mfu` of the device's peak.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from diptych.errors import InputError
from diptych.training.costs import Costs, Part
from diptych.training.hardware import Device

LIBRARIES = 1.5e9
"""Bytes that the context of the device, its libraries and communication take: an assumption."""
OVERHEAD = 0.1
"""Temporaries and fragmentation, as a share of what is counted: an assumption."""
MFU = 0.4
"""The share of the peak rate that training reaches: an assumption."""
_MOST = 1 << 16  # devices to look for


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A step on `devices` devices: sharded or not, in pieces of `chunk` tokens or at once.

    `memory` holds the bytes of a device by kind; `step_flops` the operations of all devices;
    `samples` is the batch of a device.
    """

    devices: int
    samples: int
    shard: bool
    chunk: int | None
    memory: Mapping[str, float]
    step_flops: float

    @property
    def bytes(self) -> float:
        """The bytes of a device."""
        return sum(self.memory.values())

    @property
    def flags(self) -> str:
        """The options of `diptych train` for this layout."""
        words = [f"--chunk {self.chunk}"] if self.chunk else []
        return " ".join([*words, *(["--shard"] if self.shard else [])])

    @property
    def command(self) -> str:
        """What starts `diptych train` on these devices."""
        if self.devices == 1:
            return "diptych"
        return f"torchrun --nproc_per_node {min(self.devices, 8)} -m diptych"

    def seconds(self, device: Device, precision: str, mfu: float) -> float:
        """Return the time of a step."""
        return self.step_flops / self.devices / (device.rate(precision) * mfu)


def plan(costs: Costs, count: int, device: Device) -> Layout:
    """Return the simplest layout that fits: everything on each device, then in pieces, then sharded,
    then both.

    Batches that are smaller than `count` use as many devices as they have samples. Raises
    InputError, with the number of devices that would do, if nothing fits.
    """
    found = _fitting(costs, count, device)
    if found is not None:
        return found
    smallest = min(layouts(costs, count), key=lambda layout: layout.bytes)
    largest = max(smallest.memory, key=lambda kind: smallest.memory[kind])
    raise InputError(
        f"a step takes at least {smallest.bytes / 1e9:,.0f} GB a device, of which "
        f"{smallest.memory[largest] / 1e9:,.0f} GB are {largest}, and {device.name} has "
        f"{device.memory / 1e9:g} GB; {_remedy(costs, count, device)}"
    )


def _remedy(costs: Costs, count: int, device: Device) -> str:
    more = count
    while more < min(_MOST, costs.batch_size):
        more = min(2 * more, costs.batch_size)
        if _fitting(costs, more, device) is not None:
            return f"{more:,} of them would do"
    return "more of them do not help: take larger ones, or a smaller --batch-size"


def _fitting(costs: Costs, count: int, device: Device) -> Layout | None:
    return next((layout for layout in layouts(costs, count) if layout.bytes <= device.memory), None)


def layouts(costs: Costs, count: int) -> Iterator[Layout]:
    """Yield the layouts on at most `count` devices, the simplest first."""
    devices = min(count, max(1, costs.batch_size // costs.min_batch))
    for sharded in (False, True):
        if sharded and (devices == 1 or costs.unshardable):
            return
        yield layout(costs, devices, shard=sharded)
        if not costs.unchunkable:
            for chunk in _chunks(costs, devices):
                yield layout(costs, devices, shard=sharded, chunk=chunk)


def _chunks(costs: Costs, devices: int) -> Iterator[int]:
    """Yield powers of two below the tokens of a device's batch, down to those of one sample."""
    samples = -(-costs.batch_size // devices)
    tokens = max(part.tokens for part in costs.parts.values())
    least = min(part.tokens for part in costs.parts.values())
    chunk = 1 << (samples * tokens - 1).bit_length() >> 1
    while chunk >= least:
        yield chunk
        chunk >>= 1


def layout(costs: Costs, devices: int, *, shard: bool = False, chunk: int | None = None) -> Layout:
    """Return a layout with its memory and operations."""
    samples = -(-costs.batch_size // devices)
    encoded = [_encoded(part, samples, chunk) for part in costs.parts.values()]
    activations = [kept for kept, _ in encoded]
    memory = {
        "state": _state(costs, devices, shard, chunk),
        "activations": max(activations) if chunk else sum(activations),
        "batch": costs.input_bytes * samples + 2 * costs.feature_bytes * costs.batch_size,
        "loss": costs.loss_bytes or 0.0,
    }
    memory["allowance"] = LIBRARIES + OVERHEAD * sum(memory.values())
    flops = sum(operations for _, operations in encoded) + (costs.loss_flops or 0)
    return Layout(
        devices=devices,
        samples=samples,
        shard=shard,
        chunk=chunk,
        memory=memory,
        step_flops=devices * flops + (costs.before_flops or 0) * costs.batch_size,
    )


def _state(costs: Costs, devices: int, shard: bool, chunk: int | None) -> float:
    states = costs.weight_bytes + costs.gradient_bytes + costs.optimizer_bytes + costs.average_bytes
    if shard:
        outer = 2 * costs.outer_bytes + 2 * costs.block_bytes
        return states / devices + outer + costs.buffer_bytes
    copied = costs.gradient_bytes if devices > 1 and chunk is None else 0
    return states + copied + costs.buffer_bytes


def _encoded(part: Part, samples: int, chunk: int | None) -> tuple[float, float]:
    """Return the bytes that a part keeps at a time, and its operations on a device."""
    if chunk is None:
        return part.kept.at(samples), part.forward.at(samples) + part.backward.at(samples)
    at_once = max(1, chunk // max(1, part.tokens))
    pieces = -(-samples // at_once)
    piece = -(-samples // pieces)
    frozen = not part.backward.at(1)  # a frozen tower needs no second pass, but for its first piece
    forward = part.forward.fixed * pieces + part.forward.per_sample * samples
    backward = part.backward.fixed * pieces + part.backward.per_sample * samples
    again = part.forward.at(piece) if frozen else forward
    return part.kept.at(piece), forward + again + backward
