"""Any image encoder of transformers as a tower: `hf:FOLDER`, or a config as plain values.

Dimensions: B samples, N tokens, D width, h x w the grid, H x W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diptych.errors import InputError
from diptych.towers import hf as foreign
from diptych.towers.build import image
from diptych.towers.encoded import Edit, Encoded
from diptych.towers.nn.edits import edited
from diptych.towers.tower import ImageTower, preprocess_of

_PROBE = 64  # pixels, enough for five halvings


@dataclass(frozen=True, kw_only=True)
class HFImageConfig:
    """Options of `hf`: a local folder in transformers' layout, or the `config` (with `model_type`)
    of a fresh model. `pooling` "pooler" is the model's own."""

    folder: str | None = None
    config: Mapping[str, Any] | None = None
    pooling: Literal["pooler", "first", "mean"] = "pooler"
    image_size: int | None = None  # by default the config's, else 224
    preprocess: Mapping[str, Any] | None = None

    def __post_init__(self):
        if (self.folder is None) == (self.config is None):
            raise InputError("an hf image tower wants either a folder (hf:FOLDER) or a config")


@image("hf")
class HFImageTower(ImageTower):
    """Encode images (B, 3, H, W) by a model of transformers.

    Its tokens are those of a transformer, or the positions of a convolutional network's last map.
    The weights are loaded from the folder when the tower is built. The spec keeps only the model's
    config, so a trained tower is rebuilt without the folder.
    """

    Config = HFImageConfig
    argument = "folder"

    def __init__(self, config: HFImageConfig):
        if config.folder is not None:
            model = foreign.stored(config.folder, unread=())
        else:
            model = foreign.fresh(config.config or {})
        if getattr(model, "main_input_name", None) != "pixel_values":
            raise InputError(
                f"transformers' {type(model).__name__} takes no pixels; choose image tower vit"
            )
        given = (config.preprocess or {}).get("size")
        size = config.image_size or given or _side(getattr(model.config, "image_size", None)) or 224
        preprocess = preprocess_of(config.preprocess, size=size)
        plainly = replace(
            config, folder=None, config=foreign.plain(model.config), image_size=preprocess.size
        )
        super().__init__(plainly, preprocess)
        self.model: Any = model
        self.width = _width(model)

    def set_model(self, model: nn.Module) -> None:
        """Compute with a model of transformers, with its weights."""
        self.model = model

    def embed(self, x: Tensor) -> Tensor:
        """Only normalise pixels (B, 3, H, W): the models embed and encode in one call."""
        return self.pixels(x)

    def blocks(self, x: Tensor, edit: Edit | None = None) -> tuple[Tensor, Tensor | None]:
        """The model's tokens (B, N, D) or map (B, D, h, w), and its own pooled vector if it has
        one; `edit` is applied to the input of each layer."""
        layers = foreign.layers(self.model, self._depth) if edit is not None else []
        with edited(layers, edit):
            found = self.model(pixel_values=x)
        return found.last_hidden_state, getattr(found, "pooler_output", None)

    def finish(
        self, features: Tensor, pooled: Tensor | None, size: tuple[int, int] | None = None
    ) -> Encoded:
        """Pool features. `size` (H, W) is that of the pixels, from which the grid of tokens
        follows."""
        grid = None if size is None else self._grid(size)
        if features.ndim == 4:
            grid = (features.shape[2], features.shape[3])
            features = features.flatten(2).mT
        prefix = features.shape[1] - grid[0] * grid[1] if grid else 0
        if prefix < 0:  # fewer tokens than patches, as where layers merge them
            grid = None
            prefix = 0
        match self.config.pooling:
            case "first":
                vector = features[:, 0]
            case "mean":
                vector = features[:, prefix:].mean(1)
            case _ if pooled is not None:
                vector = pooled.flatten(1)
            case _:
                raise InputError(
                    f"transformers' {type(self.model).__name__} pools no vector; set pooling=first "
                    "or pooling=mean"
                )
        return Encoded(features, vector, prefix=prefix, grid=grid)

    def forward(
        self, x: Tensor, *, edit: Edit | None = None, hidden: Tensor | None = None
    ) -> Encoded:
        """Run `embed`, `blocks` and `finish`. Hidden patches raise InputError."""
        if hidden is not None:
            raise InputError(
                "hf image towers take no hidden patches; choose image tower vit with mask_token=true"
            )
        features, pooled = self.blocks(self.embed(x), edit)
        return self.finish(features, pooled, (x.shape[-2], x.shape[-1]))

    @property
    def _depth(self) -> int:
        depth = getattr(self.model.config, "num_hidden_layers", None)
        if depth is None:
            raise InputError(
                f"transformers' {type(self.model).__name__} has no token stream for an edit; choose a ViT"
            )
        return depth

    def _grid(self, size: tuple[int, int]) -> tuple[int, int] | None:
        patch = _side(getattr(self.model.config, "patch_size", None))
        return None if patch is None else (size[0] // patch, size[1] // patch)


def _side(size: Any) -> int | None:
    """A side that a config gives as one number or two."""
    return size if size is None or isinstance(size, int) else int(size[0])


@torch.no_grad()
def _width(model: Any) -> int:
    """The width of the vectors that a model pools: that of its tokens, or of a convolutional
    network's last map, which no value of its config gives."""
    if getattr(model.config, "hidden_size", None):
        return int(model.config.hidden_size)
    some = torch.zeros(1, 3, _PROBE, _PROBE, device=next(model.parameters()).device)
    training = model.training
    found = model.eval()(pixel_values=some)
    model.train(training)
    return int(found.last_hidden_state.shape[1])
