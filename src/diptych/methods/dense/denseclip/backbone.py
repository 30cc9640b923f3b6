"""DenseCLIP on a backbone that was not trained with texts: a new attention pool, by which its last map
gets to the space of texts.

    [z_bar; z] = P · MHSA([mean(x); x] + positions)

x is the last map of the backbone. The pool is that of a ResNet of CLIP, with every position a query; it
and the projection P are new. The texts are those of the model that training starts from.

Dimensions: B images, D channels of the last map, h x w positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.errors import InputError, located
from diptych.methods import store
from diptych.methods.dense.denseclip.features import pool_rows, prepared
from diptych.methods.make import Make
from diptych.models.blank import encoded_blank, unread
from diptych.models.pretrained import LOADERS
from diptych.spec import parse
from diptych.towers.build import image, image_tower, kinds
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.nn.parts import Temperature, freeze, thaw
from diptych.towers.regions import set_size
from diptych.towers.tower import ImageTower, preprocess_of

HEAD = 64
"""The least channels of a head of the pool."""


@dataclass(frozen=True, kw_only=True)
class PooledConfig:
    """Options of `denseclip.pooled`: the `tower` in plain values, and the `grid` (h, w) of the positions
    of the pool (None: that of the tower's last map)."""

    tower: Mapping[str, Any]
    grid: tuple[int, int] | None = None
    preprocess: Mapping[str, Any] | None = None


@image("denseclip.pooled")
class PooledTower(ImageTower):
    """An image tower whose last map is pooled by attention.

    `pooled` is the row of the mean, and the tokens are those of the positions; levels are the tower's.
    `unread` are the tower's parameters that nothing of this depends on, such as its own pooling, which
    are frozen. Raises InputError for a tower without a map of two dimensions.

    >>> tower = {"name": "conv", "image_size": 32, "widths": (8, 16), "depths": (1, 1)}
    >>> encoded = PooledTower(PooledConfig(tower=tower))(torch.zeros(2, 3, 32, 32))
    >>> encoded.grid, encoded.tokens.shape, encoded.pooled.shape
    ((4, 4), torch.Size([2, 16, 16]), torch.Size([2, 16]))
    """

    Config = PooledConfig

    def __init__(self, config: PooledConfig, tower: ImageTower | None = None):
        inner = tower or image_tower(config.tower)
        if len(inner.preprocess.shape) != 3:
            raise InputError(
                f"image tower {inner.kind!r} reads volumes, and the positions of images are scored here; choose one "
                "of images"
            )
        thaw(inner)
        with torch.enable_grad():
            blank = encoded_blank(inner)
            if blank.grid is None:
                raise InputError(
                    f"image tower {inner.kind!r} has no map of positions; choose vit, conv, or a ResNet or Swin of timm"
                )
            unused = unread(inner, [blank.patches, *blank.levels])
        freeze(*unused)
        super().__init__(
            replace(config, grid=tuple(config.grid or blank.grid)),
            preprocess_of(config.preprocess, **inner.preprocess.to_dict()),
        )
        self.inner = inner
        self.unread = tuple(unused)
        self.width = blank.patches.shape[-1]
        self.attention = AttentionPool(self.width, self.config.grid)

    @property
    def spec(self) -> dict[str, Any]:
        return super().spec | {"tower": self.inner.spec}

    def resize(self, size: int) -> None:
        """Change the image size; the pool interpolates its positions. Raises InputError as `set_size`
        does."""
        set_size(self.inner, size, "the image size")
        self.preprocess = replace(self.preprocess, size=size)

    def forward(self, x: Tensor, **options: Any) -> Encoded:
        """Encode images (B, 3, H, W); keywords (`edit`, …) are those of the tower."""
        encoded = self.inner(x, **options)
        if encoded.grid is None:
            raise InputError("patches are left out, and all positions are pooled here; keep them")
        rows = pool_rows(self.attention, encoded.patches.mT.unflatten(2, encoded.grid))
        tokens = torch.cat([encoded.tokens[:, : encoded.prefix], rows[:, 1:]], dim=1)
        return replace(encoded, tokens=tokens, pooled=rows[:, 0], queries=None)


class AttentionPool(nn.Module):
    """The weights of a ResNet of CLIP's attention pool, under the names of timm's, for `pool_rows`.

    Heads have `HEAD` channels, or the least number above that divides D. All weights are drawn from
    N(0, 1/D), biases begin at 0.
    """

    qkv = None  # the three are separate

    def __init__(self, width: int, grid: tuple[int, int]):
        super().__init__()
        self.feat_size = grid
        self.num_heads = next(
            heads for heads in range(max(1, width // HEAD), 0, -1) if width % heads == 0
        )
        std = width**-0.5
        self.pos_embed = nn.Parameter(torch.randn(1 + grid[0] * grid[1], width) * std)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        for layer in (self.q, self.k, self.v):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)


def backbone_of(spec: str) -> ImageTower:
    """The image tower of a spec: a new one, such as `timm:resnet50:weights=FILE`, or that of a model of
    `diptych.load`.

    Raises InputError as these do, and for a model without an image tower.
    """
    with located(f"backbone {spec}"):
        kind = parse(spec).name.partition(":")[0]
        if kind in kinds()["image"] and kind not in LOADERS and not Path(spec).is_dir():
            return image_tower(spec)
        encoder = getattr(store.load(spec), "encoder", None)
        if not isinstance(encoder, DualEncoder) or "image" not in encoder.sides:
            raise InputError("it has no image tower; name a run of images, such as one of simclr")
        return encoder.image


def encoder_on(spec: str, make: Make, logit_scale: Temperature, size: int | None) -> DualEncoder:
    """A new dual encoder: the image tower of a spec for images of `size` pixels, with a new pool and
    projection, and the text side of the given model.

    Raises InputError as `backbone_of` and `PooledTower` do, for a size that does not fit the tower, and
    for an adapter.
    """
    if make.adapter is not None:
        raise InputError(
            "an adapter keeps the weights of a model of images and texts, and a backbone is trained with a new pool; "
            "leave out --adapt"
        )
    tower = backbone_of(spec)
    with located(f"backbone {spec}"):
        prepared(tower, size)
        pooled = PooledTower(PooledConfig(tower=tower.spec), tower)
    texts = make.text_encoder(logit_scale=logit_scale)
    encoder = DualEncoder(
        pooled,
        texts.text,
        texts.embed_dim,
        logit_scale=logit_scale,
        image_projection="affine",
        text_projection=texts.config()["text_projection"],
    )
    encoder.text_projection = texts.text_projection
    return encoder
