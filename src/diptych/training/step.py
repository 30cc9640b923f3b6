"""One step's forward pass: encode this rank's samples, gather features over ranks, compute the loss
of the whole batch.

`encode` receives the samples of this rank, `loss` those of all ranks. `among`, between them, receives
those of all and returns features of this rank's.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diptych import collectives
from diptych.data.batch import Batch, Images, Tokens
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method
from diptych.rng import torch_seed
from diptych.towers.nn.parts import Momentum, Temperature
from diptych.training.log import check_logged


class Step(nn.Module):
    """The module that DDP wraps, so that its `forward` uses every parameter, those of the loss
    included.

    The random numbers of `encode` and `among` (dropout) depend on (seed, stage, step, rank), those of
    `loss` on (seed, stage, step) alone, so that they are equal on all ranks. A resumed run draws the same
    numbers as an uninterrupted one.
    """

    def __init__(self, method: Method, precision: str):
        super().__init__()
        self.method = method
        self.precision = precision

    def encode(self, batch: Any, at: At, part: str | None = None, piece: int = 0) -> Features:
        """Return this rank's features, or those of one of the method's `parts`, whose pieces draw
        by (…, rank, part, piece)."""
        place = () if part is None else (part, piece)
        torch.manual_seed(
            torch_seed(at.seed, at.stage, at.step, "encode", collectives.rank(), *place)
        )
        encode = self.method.encode if part is None else self.method.parts()[part]
        with self._autocast():
            return encode(batch, at)

    def loss(self, features: Mapping[str, Tensor], batch: Any, at: At) -> Losses:
        """Return the loss of the global batch, from this rank's share of its features."""
        gathered = {}
        for name, value in features.items():
            if name in self.method.exchanged:
                continue
            join = collectives.mean if name in self.method.averaged else collectives.gather
            gathered[name] = join(at_least_float32(value), f"feature {name!r}")
        world = gather_batch(batch, self.method.whole)
        if self.method.exchanged:
            gathered |= self._among(features, gathered, world, at)
        torch.manual_seed(torch_seed(at.seed, at.stage, at.step, "loss"))
        return checked(self.method.loss(gathered, world, at), f"loss of {self.method.name}")

    def _among(
        self, features: Mapping[str, Tensor], gathered: Mapping[str, Tensor], world: Any, at: At
    ) -> Features:
        """Return the features that `among` computes of this rank's samples, of all ranks."""
        given = {name: value.detach() for name, value in gathered.items()}
        for name in self.method.exchanged:
            given[name] = collectives.exchange(
                at_least_float32(features[name]), f"feature {name!r}"
            )
        own = len(features[self.method.exchanged[0]])
        start = sum(collectives.gather_objects(own)[: collectives.rank()])
        torch.manual_seed(torch_seed(at.seed, at.stage, at.step, "among", collectives.rank()))
        with self._autocast():
            found = self.method.among(given, slice(start, start + own), world, at)
        return {
            name: collectives.gather(at_least_float32(value), f"feature {name!r}")
            for name, value in found.items()
        }

    def _autocast(self) -> torch.autocast:
        device = next(self.method.parameters()).device
        return torch.autocast(
            device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"
        )

    def terms(
        self, features: Mapping[str, Tensor], batch: Any, at: At
    ) -> tuple[Mapping[str, Any], ...]:
        """Return `loss` as plain mappings, in which DDP and FSDP find the tensors."""
        losses = self.loss(features, batch, at)
        return losses.terms, losses.logged, losses.carry

    def settle(self) -> None:
        """Do nothing: FSDP takes the module that is called first for the root, and a stage's
        `prepare` may call a tower first."""

    def forward(self, batch: Any, at: At) -> tuple[Mapping[str, Any], ...]:
        # Called on the class: on a sharded step the instance's methods gather the parameters, which
        # calling `forward` has already done.
        return Step.terms(self, Step.encode(self, batch, at), batch, at)


def checked(losses: Any, whose: str) -> Losses:
    """Return what `loss` returned. Raises InputError if this is no `Losses`, or its terms or what it
    logs are no numbers."""
    if not isinstance(losses, Losses):
        raise InputError(
            f"{whose} returns a {type(losses).__name__}; return Losses({{name: term}}, {{name: value to log}}) of "
            "diptych.methods.base"
        )
    terms = losses.terms if isinstance(losses.terms, Mapping) else {}
    if not any(isinstance(term, Tensor) for term in terms.values()):
        raise InputError(
            f"{whose} has no term; give Losses a mapping of names to tensors, whose sum is minimized"
        )
    for name, term in terms.items():
        if isinstance(term, Tensor) and term.numel() != 1:
            raise InputError(
                f"{whose} has the term {name!r} of shape {tuple(term.shape)}; give one number, such as its mean"
            )
    check_logged(losses.logged, whose)
    return losses


def gather_batch(batch: Any, images: bool = False) -> Any:
    """Return the global batch: texts, fields and keys in rank order, and the pixels if `images`."""
    if isinstance(batch, Mapping):
        return {name: gather_batch(each, images) for name, each in batch.items()}
    shown = batch.images if images else {}
    if collectives.world_size() == 1:
        return replace(batch, images=shown)
    keys = [key for keys in collectives.gather_objects(list(batch.keys)) for key in keys]
    return Batch(
        images={
            name: Images(collectives.gather(each.pixels, f"images {name!r}"))
            for name, each in shown.items()
        },
        texts={name: _gather_tokens(tokens) for name, tokens in batch.texts.items()},
        fields={
            name: collectives.gather(value, f"field {name!r}")
            for name, value in batch.fields.items()
        },
        keys=tuple(keys),
    )


def _gather_tokens(tokens: Tokens) -> Tokens:
    return Tokens(
        collectives.gather(tokens.ids.movedim(2, 1), "texts").movedim(1, 2),
        collectives.gather(tokens.lengths),
        None
        if tokens.marks is None
        else collectives.gather(tokens.marks.movedim(2, 1), "marks", pad=-1).movedim(1, 2),
    )


def forward_backward(step: nn.Module, batch: Any, at: At) -> Losses:
    """Run forward and backward of the whole batch at once and return the losses; `gradcache` has
    the other way.

    DDP averages gradients over the ranks; without DDP they are averaged here.
    """
    losses = Losses(*step(batch, at))
    losses.total.backward()
    if isinstance(step, Step):
        collectives.average_gradients(step.parameters())
    return losses


def freeze_modes(method: Method) -> None:
    """Put fully frozen modules into evaluation mode: no dropout, no running statistics; but not a
    momentum copy that has its own."""
    own = {
        part
        for copy in method.modules()
        if isinstance(copy, Momentum) and copy.own_buffers
        for part in copy.modules()
    }
    for module in method.modules():
        parameters = list(module.parameters())
        if module not in own and parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def clamp(method: Method) -> None:
    """Clamp temperatures to their bounds."""
    for module in method.modules():
        if isinstance(module, Temperature):
            module.clamp_()
