"""The encoders of several stages as one.

Dimensions: N images or texts, L tokens, D tower width, E embedding of one stage, S stages.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.models.delivered import Delivered
from diptych.models.model import Model
from diptych.towers.dual import Composed, DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.tower import ImageTower, Tower

ALL = "all"
"""The space of all stages together."""
JOINED = "joined"


class Stages(Delivered):
    """The encoders of all stages. Embeddings are those of all of them side by side,

        z = unit( [x_0, x_1, …, x_S] )

    with x_s the raw embedding of stage s, so that a stage with longer vectors weighs more. The space
    `stageS` is that of one encoder.
    """

    def __init__(self, encoders: Sequence[DualEncoder]):
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.spaces = (ALL, *(f"stage{number}" for number in range(len(encoders))))

    @property
    def encoder(self) -> DualEncoder:
        """The encoder of the first stage, which describes those of all of them."""
        return self._encoders[0]

    @property
    def image(self) -> ImageTower:
        """An image tower, whose preprocessing is that of all of them."""
        return self.encoder.image

    def space(self, name: str) -> DualEncoder:
        """The encoder of all stages, or of one."""
        number = self.spaces.index(name)
        return self._encoders[number - 1] if number else self.joined()

    def joined(self) -> DualEncoder:
        """The encoder of all stages together."""
        return Joined(self._encoders)

    @property
    def _encoders(self) -> list[DualEncoder]:
        return list(self.encoders)  # type: ignore[arg-type]

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Model:
        assert preprocess is not None, "the image tower has a preprocessing"
        return Model(self.joined(), tokenizer, preprocess, name=name, delivered=self)


class Joined(Composed):
    """Several encoders of the same towers as one, whose vectors are theirs side by side."""

    def __init__(self, encoders: Sequence[DualEncoder]):
        first = encoders[0]
        parts: dict[str, nn.Module] = {
            "image": JoinedImages([each.image for each in encoders]),
            "image_projection": SideBySide(
                [each.image_projection for each in encoders], first.image.width
            ),
        }
        if first.text is not None:
            parts["text"] = JoinedTexts([each.text for each in encoders])  # type: ignore[misc]
            parts["text_projection"] = SideBySide(
                [each.text_projection for each in encoders],  # type: ignore[misc]
                first.text.width,
            )
        super().__init__(first, parts=parts, embed_dim=len(encoders) * first.embed_dim)

    def config(self) -> dict[str, Any]:
        """The config of one of the encoders, with joined towers, which nothing builds: exports and
        trainings that ask for one encoder refuse them by name."""
        towers = {side: getattr(self, side).spec for side in self.sides}
        return {**super().config(), **towers, "embed_dim": self.embed_dim}

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        return nn.Module.state_dict(self, *arguments, **options)


class SideBySide(nn.Module):
    """Heads for the parts of a vector: (…, S D) -> (…, S E)."""

    def __init__(self, heads: Sequence[nn.Module], width: int):
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.width, -1)
        return torch.cat([head(part) for head, part in zip(self.heads, parts, strict=True)], -1)


class JoinedImages(ImageTower):
    """Several image towers as one, whose features are theirs side by side."""

    def __init__(self, towers: Sequence[ImageTower]):
        first = towers[0]
        super().__init__(first.config, first.preprocess)
        self.towers = nn.ModuleList(towers)
        self.width = len(towers) * first.width

    @property
    def spec(self) -> dict[str, Any]:
        """The specs of the towers."""
        return {"name": JOINED, "towers": [tower.spec for tower in self.towers]}

    def forward(self, x: Tensor, **options: Any) -> Encoded:
        return _joined(self.towers, lambda tower: tower(x, **options))


class JoinedTexts(Tower):
    """Several text towers as one, whose features are theirs side by side."""

    def __init__(self, towers: Sequence[Tower]):
        first = towers[0]
        super().__init__(first.config)
        self.towers = nn.ModuleList(towers)
        self.width = len(towers) * first.width

    @property
    def spec(self) -> dict[str, Any]:
        """The specs of the towers."""
        return {"name": JOINED, "towers": [tower.spec for tower in self.towers]}

    def forward(self, ids: Tensor | None, lengths: Tensor, **options: Any) -> Encoded:
        return _joined(self.towers, lambda tower: tower(ids, lengths, **options))


def _joined(towers: nn.ModuleList, encode: Callable[[nn.Module], Encoded]) -> Encoded:
    """Tokens (N, L, S D), pooled vectors (N, S D) and feature maps (N, S C, h, w)."""
    found = [encode(tower) for tower in towers]
    maps = zip(*(each.levels for each in found), strict=True)
    return replace(
        found[0],
        tokens=torch.cat([each.tokens for each in found], -1),
        pooled=torch.cat([each.pooled for each in found], -1),
        levels=[torch.cat(level, 1) for level in maps],
    )
