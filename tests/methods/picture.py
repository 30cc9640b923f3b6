"""A method whose model has neither towers nor a language model: it learns the picture nearest to all
images.

    L = mean_i | x_i / 255 - p |^2
"""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import ImageView, View
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.make import NO_TOWER, Make
from diptych.models.delivered import Delivered, Validation
from diptych.spec import Width

card = {
    "title": "The mean picture",
    "year": 2026,
    "kind": "method",
    "entry": "MeanPicture",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """`size` is the picture's side in pixels."""

    size: Width = 16


class Picture(Delivered):
    """A picture (3, S, S), in [0, 1]."""

    def __init__(self, size: int):
        super().__init__()
        self.preprocess = Preprocess(size=size)
        self.pixels = nn.Parameter(torch.zeros(3, size, size))

    def extra_state(self) -> dict[str, int]:
        return {"size": self.preprocess.size}

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "PictureModel":
        assert preprocess is not None
        return PictureModel(self, preprocess, name)


class PictureModel:
    """What `diptych.load` returns."""

    validation = Validation("sts", ())

    def __init__(self, delivered: Picture, preprocess: Preprocess, name: str):
        self.delivered = delivered
        self.preprocess = preprocess
        self.name = name

    def to(self, device: torch.device | str) -> "PictureModel":
        self.delivered.to(device)
        return self

    def draw(self) -> Image.Image:
        """The picture."""
        pixels = (self.delivered.pixels.detach().clamp(0, 1) * 255).round().byte()
        return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


class MeanPicture(Method):
    """The squared distance of a picture to all images."""

    Config = Config
    model: Picture

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        self.model = Picture(config.size)
        make.go_on(self.model)

    def views(self, stage: Stage, stream: str = "train") -> tuple[View, ...]:
        return (ImageView(preprocess=self.model.preprocess),)

    def encode(self, batch: Batch, at: At) -> Features:
        pixels = batch.image.flat.to(self.model.pixels.dtype) / 255
        found: Tensor = (pixels - self.model.pixels).square().flatten(1).mean(1)
        return {"distance": found}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        return Losses({"distance": features["distance"].mean()})


MeanPicture.presets = {
    "small": Preset(
        config={"size": 16},
        image=NO_TOWER,
        text=NO_TOWER,
        embed_dim=0,
        recipe=Recipe(lr=0.05, weight_decay=0.0, batch_size=8, steps=30),
    ),
    "paper": Preset(
        config={"size": 640}, image=NO_TOWER, text=NO_TOWER, embed_dim=0, recipe=Recipe(lr=0.05)
    ),
}
