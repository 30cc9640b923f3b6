"""What Hydra delivers: an encoder of images, and the gates of its classes.

Dimensions: C classes, k gated dimensions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError
from diptych.methods.pretrain.hydra.gate import PairGate
from diptych.models.delivered import Delivered, Validation
from diptych.models.model import Model, evaluating
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature
from diptych.towers.tower import ImageTower

PAIRS = 8192
"""Pairs of classes whose gates are computed at once."""


class GatedEncoder(Delivered):
    """An image tower that embeds by its pooled output h, and the gate of the classes `names`, which
    embeddings do not pass through."""

    def __init__(self, image: ImageTower, gate: PairGate, names: Sequence[str], label: str):
        super().__init__()
        self.encoder = DualEncoder(
            image,
            None,
            image.width,
            logit_scale=Temperature(1.0, form="fixed"),
            image_projection="none",
        )
        self.gate = gate
        self.names = tuple(names)
        self.label = label

    @property
    def image(self) -> ImageTower:
        """The image tower, which has the preprocessing."""
        return self.encoder.image

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # the label is an option
        """The fields of a source that validation reads."""
        return "images.main", f"labels.{self.label}"

    def extra_state(self) -> dict[str, Any]:
        return {"classes": list(self.names), "dim": self.gate.dim}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        self.names = tuple(values["classes"])
        self.gate = self.gate.resized(len(self.names), values["dim"])

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "GatedModel":
        assert preprocess is not None, "an image tower has a preprocessing"
        model = GatedModel(self.encoder, tokenizer, preprocess, name=name, delivered=self)
        model.validation = Validation("probe", ("linear_top1", "knn_top1"), {"label": self.label})
        return model


class GatedModel(Model):
    """A model of images that knows how the classes of its training resemble each other."""

    delivered: GatedEncoder

    @property
    def gate_names(self) -> tuple[str, ...]:
        """The names of the classes that have gates."""
        return self.delivered.names

    def gates(self, first: Tensor | None = None, second: Tensor | None = None) -> Tensor:
        """The gates in evaluation mode, float32, on the CPU: (C, C, k) of all pairs of classes, or
        (n, k) of the pairs that `first` and `second` (n,) number.

        Raises InputError for a number that is no class.
        """
        count = len(self.gate_names)
        if first is None or second is None:
            rows, columns = torch.triu_indices(count, count)
            found = torch.empty(count, count, self.delivered.gate.dim)
            for own in torch.arange(len(rows)).split(PAIRS):
                found[rows[own], columns[own]] = self._gated(rows[own], columns[own])
            found[columns, rows] = found[rows, columns]
            return found
        asked = torch.cat([first, second])
        strangers = asked[(asked < 0) | (asked >= count)]
        if len(strangers):
            raise InputError(
                f"{self.name} has gates of the classes 0 to {count - 1}, not of {int(strangers[0])}"
            )
        parts = zip(first.split(PAIRS), second.split(PAIRS), strict=True)
        return torch.cat([self._gated(*part) for part in parts])

    def _gated(self, first: Tensor, second: Tensor) -> Tensor:
        gate = self.delivered.gate
        with evaluating(gate), torch.inference_mode():
            return gate(first.to(self.device), second.to(self.device)).float().cpu().clone()

    def class_relations(self, nearest: int = 3) -> list[dict[str, Any]]:
        """The relations of each class to others: its `class`, the number of `open` dimensions, whose
        own gate is above one half, and the `nearest` classes by the cosine of the own gates, each
        with `cosine` and the number that the gate of the pair has `open`."""
        numbers = torch.arange(len(self.gate_names))
        own = self.gates(numbers, numbers)
        cosines = normalize(own, dim=1) @ normalize(own, dim=1).T
        values, others = cosines.fill_diagonal_(-1).topk(min(nearest, len(numbers) - 1), dim=1)
        shared = self.gates(numbers.repeat_interleave(others.shape[1]), others.flatten())
        shared_open = (shared > 0.5).sum(1).view_as(others)
        return [
            {
                "class": name,
                "open": int((own[number] > 0.5).sum()),
                "of": own.shape[1],
                "nearest": [
                    {
                        "class": self.gate_names[int(others[number, place])],
                        "cosine": round(float(values[number, place]), 4),
                        "open": int(shared_open[number, place]),
                    }
                    for place in range(others.shape[1])
                ],
            }
            for number, name in enumerate(self.gate_names)
        ]
