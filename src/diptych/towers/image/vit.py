"""The vision transformer (Dosovitskiy et al., 2021), with the variants of CLIP, SigLIP and TIPS.

Dimensions: B samples, P patches (h x w), N tokens, D width, K CLS tokens, H x W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.images import sides
from diptych.errors import InputError, unknown
from diptych.towers.build import image
from diptych.towers.encoded import Edit, Encoded
from diptych.towers.nn.attention import Attention
from diptych.towers.nn.pooling import QueryPooler
from diptych.towers.nn.transformer import FeedForward, Transformer, init
from diptych.towers.tower import ImageTower, preprocess_of


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Options of `vit`. CLIP: pre_norm, cls_position, patch_bias=False. SigLIP: cls=0,
    pooling="map", eps=1e-6."""

    image_size: int | tuple[int, int] = 224  # of each side, or (height, width)
    patch: int = 16
    width: int = 384
    depth: int = 12
    heads: int | None = None  # width / 64
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    eps: float = 1e-5
    stem: Literal["patch", "conv"] = "patch"
    patch_bias: bool = True
    cls: int = 1  # CLS tokens; with several, pooled is (B, K, D)
    cls_position: bool = False  # whether CLS tokens have positions
    cls_std: float | None = None  # standard deviation of new CLS tokens; None: width ** -0.5
    registers: int = 0
    pre_norm: bool = False
    pooling: Literal["cls", "mean", "all", "map", "queries"] = (
        "cls"  # mean of patches, or of all tokens
    )
    norm_after_pool: bool = False  # with "mean" and "all": norm(mean) instead of mean(norm)
    queries: int | None = None  # with "queries": how many attend to the tokens; the first is pooled
    pool_width: int | None = None  # of the queries, and so of pooled
    pool_heads: int | None = None
    layer_scale: float | None = None
    dropout: float = 0.0
    patch_dropout: float = 0.0  # share of patches left out while training
    mask_token: bool = (
        False  # hidden patches become this learned token; without it they are removed
    )
    any_size: bool = False  # accept images of any size, interpolating positions on the fly
    interpolation: Literal["bicubic", "bilinear"] | None = None  # of positions; None: bicubic
    final_norm: bool | None = None  # False: what reads the tokens normalises them; None: True
    mean: tuple[float, float, float] | None = None  # of the pixels, from 0 to 1; None: CLIP's
    std: tuple[float, float, float] | None = None
    preprocess: Mapping[str, Any] | None = None

    def __post_init__(self):
        if self.stem not in ("patch", "conv"):
            raise unknown("stem", self.stem, ("patch", "conv"))
        for name in ("patch", "width", "depth"):
            if getattr(self, name) < 1:
                raise InputError(f"vit {name} is {getattr(self, name)}; it must be at least 1")
        object.__setattr__(self, "image_size", sides(self.image_size, "vit image_size"))
        if min(self.grid) < 1:
            raise InputError(
                f"vit image_size {self.image_size} holds no patch of {self.patch}; choose a smaller patch"
            )
        if self.pooling == "cls" and self.cls < 1:
            raise InputError(
                "vit pools its CLS token but has none (cls=0); choose pooling=mean or pooling=map"
            )
        given = (self.queries, self.pool_width, self.pool_heads)
        if self.pooling == "queries" and None in given:
            raise InputError(
                "vit pooling=queries needs queries, pool_width and pool_heads; give all three"
            )
        if not 0 <= self.patch_dropout < 1:
            raise InputError(
                f"vit patch_dropout is {self.patch_dropout}; it is a share from 0 up to below 1"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """The number of patches (h, w) of an image."""
        height, width = _two(self.image_size)
        return height // self.patch, width // self.patch


@image("vit")
class ViT(ImageTower):
    """Encode images (B, 3, H, W) in three steps: `embed`, `blocks`, `finish`.

    >>> tower = ViT(ViTConfig(image_size=32, patch=8, width=64, depth=2))
    >>> encoded = tower(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    >>> encoded.pooled.shape, encoded.patches.shape
    (torch.Size([2, 64]), torch.Size([2, 16, 64]))
    """

    Config = ViTConfig
    added = (
        *("queries", "pool_width", "pool_heads", "mean", "std", "cls_std", "interpolation"),
        "final_norm",
    )
    routes = ("tokens", "values")

    def __init__(self, config: ViTConfig):
        own = {"size": config.image_size, "mean": config.mean, "std": config.std}
        given = {key: value for key, value in own.items() if value is not None}
        super().__init__(config, preprocess_of(config.preprocess, **given))
        if self.preprocess.size != config.image_size:
            raise InputError(
                f"vit has image_size {config.image_size} but a preprocess of {self.preprocess.size}; make them equal"
            )
        D = config.width
        self.width = (config.pool_width or D) if config.pooling == "queries" else D
        self.prefix = config.cls + config.registers
        self.patch_embed = patch_stem(config)
        std = D**-0.5 if config.cls_std is None else config.cls_std
        self.cls = nn.Parameter(torch.randn(config.cls, D) * std) if config.cls else None
        self.registers = (
            nn.Parameter(torch.randn(config.registers, D) * 0.02) if config.registers else None
        )
        h, w = config.grid
        # first the positions of CLS tokens, if they have any, then those of the grid
        self.positions = nn.Parameter(
            torch.randn(config.cls * config.cls_position + h * w, D) * D**-0.5
        )
        self.mask_token: nn.Parameter | None = _mask_token(D) if config.mask_token else None
        self.pre_norm = nn.LayerNorm(D, config.eps) if config.pre_norm else nn.Identity()
        self.transformer = Transformer(
            D,
            config.depth,
            config.heads,
            mlp_ratio=config.mlp_ratio,
            activation=config.activation,
            eps=config.eps,
            layer_scale=config.layer_scale,
            dropout=config.dropout,
        )
        self.norm = nn.Identity() if config.final_norm is False else nn.LayerNorm(D, config.eps)
        self.pool = _pool(config)

    @property
    def vectors(self) -> int:
        return self.config.cls if self.config.pooling == "cls" else 1

    def grid(self, x: Tensor) -> tuple[int, int]:
        """The number of patches (h, w) that fit into images (…, H, W)."""
        return x.shape[-2] // self.config.patch, x.shape[-1] // self.config.patch

    def embed(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Embed images (B, 3, H, W) as tokens (B, prefix + P, D): CLS, registers, patches.

        Positions are added and the pre-norm is applied.

        `hidden` (B, P) bool are patches that are replaced by the mask token before positions are
        added. A tower without a mask token removes them, and each sample must hide the same number.
        """
        self._check_size(x)
        patches = self.patch_embed(self.pixels(x)).flatten(2).transpose(1, 2)
        if hidden is not None and self.mask_token is not None:
            patches = torch.where(hidden[..., None], self.mask_token.to(patches.dtype), patches)
        patches = self._drop(
            patches + self._interpolated(self.grid(x)),
            hidden,
        )
        cls = (
            self.cls + self.positions[: self._own]
            if self._own and self.cls is not None
            else self.cls
        )
        first = [
            t.to(patches.dtype).expand(x.shape[0], -1, -1)
            for t in (cls, self.registers)
            if t is not None
        ]
        return self.pre_norm(torch.cat([*first, patches], dim=1))

    def blocks(self, tokens: Tensor, edit: Edit | None = None, **options: Any) -> Tensor:
        """Run the blocks on tokens (B, N, D); keywords (`mask`, `start`, `stop`, …) as in
        `Transformer.forward`."""
        return self.transformer(tokens, edit, **options)

    def finish(
        self,
        tokens: Tensor,
        grid: tuple[int, int] | None = None,
        patches: int | None = None,
        real: Tensor | None = None,
    ) -> Encoded:
        """Final norm and pooling.

        Give `grid` if all patches are present, else their number `patches` (default: all tokens
        after the prefix). Of the patches only those where `real` (B, P) is True are pooled.
        """
        normed = self.norm(tokens)
        count = (
            grid[0] * grid[1]
            if grid
            else patches
            if patches is not None
            else tokens.shape[1] - self.prefix
        )
        mask = None if real is None else self._key_mask(tokens, real)
        patch = slice(self.prefix, self.prefix + count)
        queries = None
        if isinstance(self.pool, QueryPooler):
            found = self.pool(normed, mask)
            pooled = found[:, 0]
            queries = found[:, 1:]
        elif self.pool is not None:
            pooled = self.pool(normed, mask)
        elif self.config.pooling == "cls":
            pooled = normed[:, 0] if self.config.cls == 1 else normed[:, : self.config.cls]
        else:
            part, of_part = (slice(None), mask) if self.config.pooling == "all" else (patch, real)
            pooled = (
                self.norm(mean(tokens[:, part], of_part))
                if self.config.norm_after_pool
                else mean(normed[:, part], of_part)
            )
        return Encoded(
            normed, pooled, prefix=self.prefix, mask=mask, grid=grid, queries=queries, raw=tokens
        )

    def forward(
        self,
        x: Tensor,
        *,
        edit: Edit | None = None,
        hidden: Tensor | None = None,
        mask: Tensor | None = None,
        real: Tensor | None = None,
        route: str = "tokens",
    ) -> Encoded:
        """Run `embed`, `blocks` and `finish`; `mask` is the key mask of the blocks.

        With the `route` "values" each of the returned tokens has attended to itself alone in the
        last block, so that it tells what is at its position (Zhou et al., 2022, MaskCLIP). Pooled
        vectors are the same by both routes.

        `real` (B, h · w) bool are patches that are attended to and pooled; the others, such as the
        empty ones behind a text, change nothing. It sets the mask. A strip of one row is cut behind
        the last patch that is real in any sample.
        """
        if real is not None and self.training and self.config.patch_dropout:
            raise InputError(
                "vit leaves out patches at random, and not all are real; set patch_dropout=0"
            )
        tokens = self.embed(x, hidden)
        if real is not None and hidden is not None and self.mask_token is None:
            real = real[~hidden].view(len(real), -1)
        grid = self.grid(x)
        patches = tokens.shape[1] - self.prefix
        if real is not None:
            if grid[0] == 1 and not torch.compiler.is_compiling():
                # the end of a strip, where no text of the batch has patches, need not be computed
                patches = int(real.any(0).nonzero().max()) + 1
                real = real[:, :patches]
                tokens = tokens[:, : self.prefix + patches]
                grid = (1, patches)
            mask = self._key_mask(tokens, real)
        shown = grid if patches == grid[0] * grid[1] else None
        if route == "tokens":
            return self.finish(self.blocks(tokens, edit, mask=mask), shown, patches, real)
        last = self.config.depth - 1
        tokens = self.blocks(tokens, edit, mask=mask, stop=last)
        outcome = self.blocks(tokens, edit, mask=mask, start=last)
        found = self.finish(outcome, shown, patches, real)
        if edit is not None:
            tokens = edit(last, tokens)
        block: Any = self.transformer.layers[last]
        return replace(found, tokens=self.norm(block.values(tokens)))

    def _key_mask(self, tokens: Tensor, real: Tensor) -> Tensor:
        """The mask (B, N) of tokens, of which CLS tokens and registers are always real."""
        first = real.new_ones(len(real), tokens.shape[1] - real.shape[1])
        return torch.cat([first, real], dim=1)

    def add_mask_token(self) -> nn.Parameter:
        """The mask token; a tower without one gets it, frozen as any new one is."""
        if self.mask_token is None:
            self.mask_token = _mask_token(self.config.width)
            self.config = replace(self.config, mask_token=True)
        return self.mask_token

    def resize(self, image_size: int | tuple[int, int]) -> None:
        """Change the image size: interpolate positions and update config and preprocessing."""
        config = replace(self.config, image_size=image_size, preprocess=None)
        moved = torch.cat([self.positions[: self._own], self._interpolated(config.grid)])
        self.positions = nn.Parameter(
            moved.detach().clone(), requires_grad=self.positions.requires_grad
        )
        self.preprocess = replace(self.preprocess, size=config.image_size)
        self.config = replace(config, preprocess=self.preprocess.to_dict())

    def _interpolated(self, grid: tuple[int, int]) -> Tensor:
        """The positions (h · w, D) of a grid."""
        mode = self.config.interpolation or "bicubic"
        return interpolate(self.positions[self._own :], grid, self.config.grid, mode)

    @property
    def _own(self) -> int:
        """The number of positions that belong to CLS tokens."""
        return self.config.cls * self.config.cls_position

    def _check_size(self, x: Tensor) -> None:
        size = _two(self.config.image_size)
        given = (x.shape[-2], x.shape[-1])
        if given != size and not self.config.any_size:
            raise InputError(
                f"vit takes {size[0]} x {size[1]} pixels, got {given[0]} x {given[1]}; tower.resize("
                f"{sides(given, 'image size')}), or any_size=true"
            )

    def _drop(self, patches: Tensor, hidden: Tensor | None) -> Tensor:
        """Remove hidden patches (without a mask token) and, in training, a random share of the
        rest."""
        B, P, D = patches.shape
        if hidden is not None and self.mask_token is None:
            kept = (~hidden).sum(1)
            if not torch.compiler.is_compiling() and bool((kept != kept[0]).any()):
                raise InputError(
                    "hidden patches differ in number; without a mask token each sample must hide as many"
                )
            patches = patches[~hidden].view(B, -1, D)
            P = patches.shape[1]
        if self.training and self.config.patch_dropout:
            keep = max(1, int(P * (1 - self.config.patch_dropout)))
            index = torch.rand(B, P, device=patches.device).argsort(1)[:, :keep].sort(1).values
            patches = patches.gather(1, index[..., None].expand(-1, -1, D))
        return patches


class AttentionPool(nn.Module):
    """The MAP head (Zhai et al., 2022): a learned probe attends to all tokens, then a residual
    feed-forward."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        D = config.width
        self.probe = nn.Parameter(torch.randn(1, D) * D**-0.5)
        self.attn = Attention(D, config.heads or max(1, D // 64))
        self.norm = nn.LayerNorm(D, config.eps)
        self.mlp = FeedForward(D, config.mlp_ratio, config.activation)
        init(self, D, 1)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, D), and a mask (B, N) of those that are real -> (B, D)."""
        x = self.attn(self.probe.expand(tokens.shape[0], 1, -1), tokens, mask=mask)
        return (x + self.mlp(self.norm(x)))[:, 0]


def mean(tokens: Tensor, real: Tensor | None) -> Tensor:
    """The mean (B, D) of tokens (B, P, D), of those alone where `real` (B, P) is True if it is given.

    >>> mean(torch.tensor([[[1.0], [5.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[3.]])
    """
    if real is None:
        return tokens.mean(1)
    weight = real[..., None].to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


def _mask_token(width: int) -> nn.Parameter:
    """A new mask token. A method that hides patches thaws it: on many ranks no parameter may be
    without a gradient."""
    return nn.Parameter(torch.randn(width) * 0.02, requires_grad=False)


def _two(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a size."""
    return (size, size) if isinstance(size, int) else size


def interpolate(
    positions: Tensor,
    grid: tuple[int, int],
    of: tuple[int, int] | None = None,
    mode: str = "bicubic",
) -> Tensor:
    """Interpolate positions of a grid (P, D) to (h * w, D), unchanged for equal sizes.

    `of` is the grid of the positions, by default a square. With antialiasing; bicubic as in
    open_clip, or "bilinear".

    >>> interpolate(torch.ones(16, 2), (2, 3)).shape
    torch.Size([6, 2])
    """
    if of is None:
        side = round(len(positions) ** 0.5)
        of = (side, side)
    if grid == of:
        return positions
    whole = positions.T.reshape(1, -1, *of)
    return (
        F.interpolate(whole, size=grid, mode=mode, antialias=True, align_corners=False)[0]
        .flatten(1)
        .T
    )


def _pool(config: ViTConfig) -> nn.Module | None:
    """What pools by attention, if anything does. Of queries the first gives the pooled vector, the
    others are a decoder's, as open_clip's CoCa has them."""
    if config.pooling == "map":
        return AttentionPool(config)
    if config.pooling != "queries":
        return None
    assert config.queries is not None
    assert config.pool_width is not None
    assert config.pool_heads is not None
    return QueryPooler(
        config.pool_width,
        heads=config.pool_heads,
        queries=config.queries,
        memory_width=config.width,
        eps=config.eps,
    )


def patch_stem(config: ViTConfig) -> nn.Module:
    """What embeds patches: one convolution of patch size, or for "conv" 3x3 convolutions of stride 2
    down to the patch (Xiao et al., 2021)."""
    if config.stem == "patch":
        conv = nn.Conv2d(3, config.width, config.patch, config.patch, bias=config.patch_bias)
        nn.init.normal_(conv.weight, std=(3 * config.patch**2) ** -0.5)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        return conv
    steps = config.patch.bit_length() - 1
    if 2**steps != config.patch:
        raise InputError(
            f"vit stem=conv halves the image step by step; patch {config.patch} is no power of 2"
        )
    widths = [3, *(max(config.width >> (steps - i), 8) for i in range(1, steps + 1))]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, 2, padding=1), nn.GroupNorm(1, b), nn.GELU()]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], config.width, 1))
