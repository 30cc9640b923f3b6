"""One step's forward pass: encode this rank's samples, gather features over ranks, compute the loss
of the whole batch.

This is where a method meets the ranks: it sees its own samples in `encode` and the whole world's in
`loss`.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych import collectives
from diptych.data.batch import Batch, Tokens
from diptych.dtypes import at_least_float32
from diptych.methods.base import At, Features, Losses, Method
from diptych.rng import torch_seed
from diptych.towers.nn.parts import Temperature


class Step(nn.Module):
    """The module that DDP wraps, so that every parameter is used in its `forward`, the loss's own
    included.

    Random draws of `encode` (dropout) follow (seed, stage, step, rank), those of `loss` (seed,
    stage, step) alone, so that they are equal on all ranks; a resumed run draws what an unbroken
    one does.
    """

    def __init__(self, method: Method, precision: str):
        super().__init__()
        self.method = method
        self.precision = precision

    def encode(self, batch: Any, at: At, part: str | None = None, piece: int = 0) -> Features:
        """This rank's features; of one of the method's `parts`, whose pieces draw by (…, rank,
        part, piece)."""
        place = () if part is None else (part, piece)
        torch.manual_seed(
            torch_seed(at.seed, at.stage, at.step, "encode", collectives.rank(), *place)
        )
        encode = self.method.encode if part is None else self.method.parts()[part]
        device = next(self.method.parameters()).device
        with torch.autocast(
            device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"
        ):
            return encode(batch, at)

    def loss(self, features: Mapping[str, Tensor], batch: Any, at: At) -> Losses:
        """The loss of the whole world's batch, from this rank's features of it."""
        features = {
            name: collectives.gather(at_least_float32(value), f"feature {name!r}")
            for name, value in features.items()
        }
        torch.manual_seed(torch_seed(at.seed, at.stage, at.step, "loss"))
        return self.method.loss(features, gather_batch(batch), at)

    def terms(
        self, features: Mapping[str, Tensor], batch: Any, at: At
    ) -> tuple[Mapping[str, Any], ...]:
        """`loss` as plain mappings, in which DDP and FSDP find the tensors."""
        losses = self.loss(features, batch, at)
        return losses.terms, losses.logged, losses.carry

    def settle(self) -> None:
        """Nothing: FSDP takes for the root what is called first, and a stage's `prepare` may call a
        tower first."""

    def forward(self, batch: Any, at: At) -> tuple[Mapping[str, Any], ...]:
        # By the class: on a sharded step the names of the instance put parameters together, which
        # this has done.
        return Step.terms(self, Step.encode(self, batch, at), batch, at)


def gather_batch(batch: Any) -> Any:
    """The whole world's batch without its images: texts, fields and keys in rank order."""
    if isinstance(batch, Mapping):
        return {name: gather_batch(each) for name, each in batch.items()}
    if collectives.world_size() == 1:
        return batch
    keys = [key for keys in collectives.gather_objects(list(batch.keys)) for key in keys]
    return Batch(
        texts={name: _gather_tokens(tokens) for name, tokens in batch.texts.items()},
        fields={
            name: collectives.gather(value, f"field {name!r}")
            for name, value in batch.fields.items()
        },
        keys=tuple(keys),
    )


def _gather_tokens(tokens: Tokens) -> Tokens:
    longest = max(collectives.gather_objects(tokens.ids.shape[-1]))
    ids = F.pad(tokens.ids, (0, longest - tokens.ids.shape[-1]))
    return Tokens(collectives.gather(ids), collectives.gather(tokens.lengths))


def forward_backward(step: nn.Module, batch: Any, at: At) -> Losses:
    """Forward and backward of the whole batch at once; `gradcache` has the other way.

    DDP averages gradients over the ranks; those of a step without it are averaged here.
    """
    losses = Losses(*step(batch, at))
    losses.total.backward()
    if isinstance(step, Step):
        collectives.average_gradients(step.parameters())
    return losses


def freeze_modes(method: Method) -> None:
    """What is frozen whole is in evaluation mode: no dropout, no running statistics."""
    for module in method.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def clamp(method: Method) -> None:
    """Bring temperatures back into their bounds."""
    for module in method.modules():
        if isinstance(module, Temperature):
            module.clamp_()
