"""The networks at the ends of the learning rate's cycles, and the ensemble of them.

Dimensions: N texts or images, E embedding, M snapshots.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.models.delivered import Delivered
from diptych.models.model import Model
from diptych.towers.dual import Composed, DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.nn.parts import freeze
from diptych.towers.tower import ImageTower, Tower

TRAINED = ("text", "image_projection", "text_projection")
"""The parts of the encoder that a snapshot has of its own; the image tower is frozen."""


class Snapshots(Delivered):
    """The encoder that is trained, and `count` places for its weights at the ends of cycles.

    Embeddings are those of the ensemble,

        unit( Σ_m unit(x_m) )

    or of the encoder itself as long as there is no snapshot. The space `snapshotM` is that of one.
    """

    taken: Tensor

    def __init__(self, encoder: DualEncoder, count: int):
        super().__init__()
        self.encoder = encoder
        self.snapshots = nn.ModuleList(
            nn.ModuleDict({name: copy.deepcopy(getattr(encoder, name)) for name in TRAINED})
            for _ in range(count)
        )
        freeze(self.snapshots)
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    @property
    def image(self) -> ImageTower:
        """The image tower, whose preprocessing is that of the model."""
        return self.encoder.image

    @torch.no_grad()
    def take(self) -> None:
        """Keep the weights as they are as the next snapshot."""
        place: Any = self.snapshots[int(self.taken)]
        for name in TRAINED:
            place[name].load_state_dict(getattr(self.encoder, name).state_dict())
        self.taken += 1

    @property
    def spaces(self) -> tuple[str, ...]:  # type: ignore[override]  # known once snapshots are taken
        """The ensemble, and each snapshot."""
        numbers = range(1, int(self.taken) + 1)
        return ("ensemble", *(f"snapshot{number}" for number in numbers)) if numbers else ()

    def space(self, name: str) -> DualEncoder:
        """The encoder of the ensemble, or of one snapshot."""
        number = self.spaces.index(name)
        if number == 0:
            return self.ensemble()
        return Composed(self.encoder, parts=self._parts(number - 1))

    def ensemble(self) -> DualEncoder:
        """The encoder of all snapshots together."""
        members = [self._parts(number) for number in range(int(self.taken))] or [
            {name: getattr(self.encoder, name) for name in TRAINED}
        ]
        texts = TextEnsemble(
            [each["text"] for each in members],  # type: ignore[misc]
            [each["text_projection"] for each in members],
        )
        images = MeanOfUnits([each["image_projection"] for each in members])
        parts = {"text": texts, "image_projection": images, "text_projection": nn.Identity()}
        return Composed(self.encoder, parts=parts)

    def _parts(self, number: int) -> dict[str, nn.Module]:
        place: Any = self.snapshots[number]
        return {name: place[name] for name in TRAINED}

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Model:
        assert preprocess is not None, "the image tower has a preprocessing"
        return Model(self.ensemble(), tokenizer, preprocess, name=name, delivered=self)


class MeanOfUnits(nn.Module):
    """The mean of the unit vectors of several heads: (N, D) -> (N, E)."""

    def __init__(self, heads: Sequence[nn.Module]):
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        return _mean_of_units([head(x) for head in self.heads])


class TextEnsemble(Tower):
    """The mean of the unit vectors of several text towers with their heads, as one tower."""

    def __init__(self, towers: Sequence[Tower], heads: Sequence[nn.Module]):
        super().__init__(towers[-1].config)
        self.towers = nn.ModuleList(towers)
        self.heads = nn.ModuleList(heads)

    @property
    def spec(self) -> dict[str, Any]:
        """The spec of one of the towers."""
        last: Any = self.towers[-1]
        return last.spec

    def forward(self, ids: Tensor | None, lengths: Tensor, **options: Any) -> Encoded:
        pooled = [
            head(tower(ids, lengths, **options).pooled)
            for tower, head in zip(self.towers, self.heads, strict=True)
        ]
        mean = _mean_of_units(pooled)
        return Encoded(mean[:, None], mean)


def _mean_of_units(vectors: Sequence[Tensor]) -> Tensor:
    return torch.stack([F.normalize(each, dim=-1) for each in vectors]).mean(0)
