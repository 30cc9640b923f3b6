"""The image tower `cocu.groupvit`: a vision transformer that groups patches into segments (GroupViT, Xu
et al., CVPR 2022).

Learned group tokens go through the blocks beside the tokens. At the end of a stage each token is given
to one group, and each group becomes a token of the next stage:

    A = softmax over groups of  q(g) k(x)^T / sqrt(D),    H = one-hot of the largest in each column of A
    x' = out( H v(x) / (row sums of H + 1) ) + g,         x' <- x' + mlp(norm x')

In training Gumbel noise is added to the products, and the gradient of H is that of A. g are the group
tokens after a mixture of them and attention to x. The last stage has no group tokens; the vector of an
image is the mean of its segments.

Dimensions: B samples, N tokens, P = h x w patches, G groups, S segments, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from diptych.errors import InputError
from diptych.towers.build import image
from diptych.towers.encoded import Edit, Encoded
from diptych.towers.image.vit import ViTConfig, interpolate, patch_stem
from diptych.towers.nn.attention import Attention
from diptych.towers.nn.parts import freeze
from diptych.towers.nn.transformer import FeedForward, Transformer
from diptych.towers.tower import ImageTower, preprocess_of

STD = 0.02
"""The standard deviation of new weights, cut at 2."""


@dataclass(frozen=True, kw_only=True)
class GroupViTConfig:
    """Options of `cocu.groupvit`.

    - Stage i has `depths[i]` blocks, and all but the last end with `groups[i]` segments.
    - `stem` is that of `vit`, and `patch_norm` says whether embedded patches are normalised before
      their positions are added.
    - `path_dropout` is the share of samples that skip a layer of the last block, in training; that of
      the first block is 0, and those between lie on a line.
    """

    image_size: int = 224
    patch: int = 16
    width: int = 384
    heads: int = 6
    depths: tuple[int, ...] = (6, 3, 3)
    groups: tuple[int, ...] = (64, 8)
    stem: Literal["patch", "conv"] = "patch"
    patch_norm: bool = True
    path_dropout: float = 0.1
    preprocess: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("depths", "groups"):  # lists come from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.depths) != len(self.groups) + 1:
            raise InputError(
                f"cocu.groupvit has {len(self.depths)} depths and {len(self.groups)} groups; every stage but the "
                "last ends with groups, so give one more depth than groups"
            )
        if not self.groups or min(*self.groups, *self.depths, self.patch, self.heads) < 1:
            raise InputError(
                f"cocu.groupvit groups {self.groups}, depths {self.depths}, patch {self.patch} or heads {self.heads} "
                "are too small; give 1 at least"
            )
        if self.image_size < self.patch:
            raise InputError(
                f"cocu.groupvit image_size {self.image_size} holds no patch of {self.patch}; choose a smaller patch"
            )
        if not 0 <= self.path_dropout < 1:
            raise InputError(
                f"cocu.groupvit path_dropout is {self.path_dropout}; it is a share from 0 up to below 1"
            )


class Segments(NamedTuple):
    """The segments of images (B, S, D) after the final norm, and the share of each patch that each
    segment has (B, S, h, w); the shares of a patch sum to 1."""

    tokens: Tensor
    shares: Tensor


def assign(products: Tensor, noise: float = 0.0) -> Tensor:
    """The one-hot of the largest of products (B, G, N) in each column, with the gradient of their
    softmax over the groups.

    `noise` is the factor of Gumbel(0, 1) noise that is added first. Of equal products the first one
    counts.

    >>> assign(torch.tensor([[[2.0, 0.0], [1.0, 3.0]]])).tolist()
    [[[1.0, 0.0], [0.0, 1.0]]]
    """
    if noise:
        exponential = torch.empty_like(products).exponential_()
        tiny = torch.finfo(products.dtype).tiny
        products = products - noise * exponential.clamp(min=tiny).log()
    soft = products.softmax(-2)
    hard = torch.zeros_like(soft).scatter_(-2, soft.argmax(-2, keepdim=True), 1.0)
    return hard + (soft - soft.detach())  # the bracket is exactly 0


def averaging(assigned: Tensor) -> Tensor:
    """The weights (B, G, N) by which groups add up their tokens: each row over its sum + 1.

    >>> averaging(torch.tensor([[1.0, 1, 0], [0, 0, 1]]))
    tensor([[0.3333, 0.3333, 0.0000],
            [0.0000, 0.0000, 0.5000]])
    """
    return assigned / (assigned.sum(-1, keepdim=True) + 1)


class TokenMixer(nn.Module):
    """An MLP over the tokens, the same for each dimension: (B, N, D) -> (B, M, D).

    Its last bias shifts a token in all dimensions alike, which every norm behind it takes away; it is
    there for published weights, and not trained.
    """

    def __init__(self, tokens: int, hidden: int, count: int):
        super().__init__()
        self.fc1 = nn.Linear(tokens, hidden)
        self.fc2 = nn.Linear(hidden, count)
        freeze(self.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x.mT))).mT


class Grouping(nn.Module):
    """Give each token to one of the groups, and make a segment of each group."""

    def __init__(self, width: int, heads: int, groups: int):
        super().__init__()
        self.norm_groups = nn.LayerNorm(width)
        self.mixer = TokenMixer(groups, width // 2, groups)
        self.norm_mixed = nn.LayerNorm(width)
        self.norm_tokens = nn.LayerNorm(width)
        self.cross = Attention(width, heads)
        self.norm_cross = nn.LayerNorm(width)
        self.mlp_cross = FeedForward(width, 4.0, "gelu")
        self.norm_asked = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        freeze(self.q.bias)  # it shifts the products of a token alike, which the softmax ignores
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm_out = nn.LayerNorm(width)
        self.mlp_out = FeedForward(width, 4.0, "gelu")

    def forward(self, tokens: Tensor, groups: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, D) and group tokens (B, G, D) -> segments (B, G, D), and the products (B, G,
        N) of groups and tokens without noise."""
        tokens = self.norm_tokens(tokens)
        asked = self.norm_mixed(self.mixer(self.norm_groups(groups)))
        asked = asked + self.cross(asked, tokens)
        asked = self.norm_asked(asked + self.mlp_cross(self.norm_cross(asked)))
        products = self.q(asked) @ self.k(tokens).mT * tokens.shape[-1] ** -0.5
        weights = averaging(assign(products, noise))
        segments = self.out(weights @ self.v(tokens)) + asked
        return segments + self.mlp_out(self.norm_out(segments)), products


class Stage(nn.Module):
    """Blocks over tokens and group tokens, and the grouping at their end; without `groups` blocks
    alone. `before` is the number of group tokens of the stage before, if there is one."""

    def __init__(
        self, width: int, heads: int, rates: Sequence[float], groups: int | None, before: int | None
    ):
        super().__init__()
        self.transformer = Transformer(width, len(rates), heads)
        for block, rate in zip(self.transformer.layers, rates, strict=True):
            block.dropout = StochasticDepth(rate, "row")
        self.groups: nn.Parameter | None = None
        self.follow: nn.Sequential | None = None
        self.grouping: Grouping | None = None
        if groups is None:
            return
        self.groups = nn.Parameter(torch.zeros(groups, width))
        self.grouping = Grouping(width, heads, groups)
        if before is not None:
            mixer = TokenMixer(before, width // 2, groups)
            self.follow = nn.Sequential(nn.LayerNorm(width), mixer)

    def forward(
        self, tokens: Tensor, before: Tensor | None, noise: float
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Tokens (B, N, D) and the group tokens of the stage before -> the segments, the group tokens
        and the products of both; without groups the tokens alone."""
        if self.groups is None or self.grouping is None:
            return self.transformer(tokens), None, None
        groups = self.groups.to(tokens.dtype).expand(len(tokens), -1, -1)
        if self.follow is not None:
            groups = groups + self.follow(before)
        joined = self.transformer(torch.cat([tokens, groups], dim=1))
        tokens, groups = joined.split([tokens.shape[1], groups.shape[1]], dim=1)
        segments, products = self.grouping(tokens, groups, noise)
        return segments, groups, products


@image("cocu.groupvit")
class GroupViT(ImageTower):
    """Encode images (B, 3, H, W) as segments, of which `Encoded.tokens` are the vectors.

    The sides of images are any multiples of a patch; positions are interpolated. `noise` is the
    factor of the Gumbel noise in training.

    >>> config = GroupViTConfig(image_size=32, patch=8, width=32, heads=2, depths=(1, 1, 1), groups=(4, 2))
    >>> tower = GroupViT(config).eval()
    >>> x = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    >>> tower(x).tokens.shape, tower.segments(x).shares.shape
    (torch.Size([2, 2, 32]), torch.Size([2, 2, 4, 4]))
    """

    Config = GroupViTConfig
    noise: float = 1.0

    def __init__(self, config: GroupViTConfig):
        super().__init__(config, preprocess_of(config.preprocess, size=config.image_size))
        if self.preprocess.size != config.image_size:
            raise InputError(
                f"cocu.groupvit has image_size {config.image_size}, its preprocess {self.preprocess.size}; make them "
                "equal"
            )
        D = config.width
        self.width = D
        self.side = config.image_size // config.patch
        self.patch_embed = patch_stem(
            ViTConfig(image_size=config.image_size, patch=config.patch, width=D, stem=config.stem)
        )
        self.norm_patches = nn.LayerNorm(D) if config.patch_norm else nn.Identity()
        self.positions = nn.Parameter(torch.empty(self.side**2, D))
        self.stages = nn.ModuleList()
        rates = iter(np.linspace(0, config.path_dropout, sum(config.depths)).tolist())
        before = None
        for depth, groups in zip(config.depths, (*config.groups, None), strict=True):
            self.stages.append(Stage(D, config.heads, [*islice(rates, depth)], groups, before))
            before = groups
        self.norm = nn.LayerNorm(D)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=STD)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.positions, std=STD)
        # the groups of later stages follow these
        nn.init.trunc_normal_(self.stages[0].groups, std=STD)  # type: ignore[arg-type]  # a parameter

    def embed(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> patches (B, P, D) with their positions."""
        grid = self.grid(x)
        patches = self.patch_embed(self.pixels(x)).flatten(2).mT
        positions = interpolate(self.positions, grid, (self.side, self.side))
        return self.norm_patches(patches) + positions

    def blocks(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Patches (B, P, D) -> segments (B, S, D), and the products of each grouping."""
        noise = self.noise if self.training else 0.0
        groups = None
        found = []
        for stage in self.stages:
            tokens, groups, products = stage(tokens, groups, noise)
            if products is not None:
                found.append(products)
        return tokens, found

    def finish(self, tokens: Tensor) -> Encoded:
        """Final norm; the pooled vector is the mean of the segments."""
        normed = self.norm(tokens)
        return Encoded(normed, normed.mean(1), raw=tokens)

    def forward(
        self, x: Tensor, *, edit: Edit | None = None, hidden: Tensor | None = None
    ) -> Encoded:
        """Run `embed`, `blocks` and `finish`. Raises InputError for an `edit` or `hidden` patches,
        which need one stream of tokens."""
        if edit is not None or hidden is not None:
            raise InputError(
                "cocu.groupvit has no one stream of tokens for prompts or hidden patches; choose image tower vit"
            )
        return self.finish(self.blocks(self.embed(x))[0])

    def segments(self, x: Tensor) -> Segments:
        """The segments of images (B, 3, H, W), and what share of each patch they have: the product of
        the assignments of all stages before they are made hard."""
        tokens, products = self.blocks(self.embed(x))
        first, *later = (each.softmax(-2) for each in products)
        shares = first
        for each in later:
            shares = each @ shares
        return Segments(self.finish(tokens).tokens, shares.unflatten(2, self.grid(x)))

    def grid(self, x: Tensor) -> tuple[int, int]:
        """The number of patches (h, w) of images (…, H, W). Raises InputError for sides that are not
        made of whole patches."""
        patch = self.config.patch
        height, width = x.shape[-2:]
        if height % patch or width % patch or not (height and width):
            raise InputError(
                f"cocu.groupvit reads whole patches of {patch} pixels, and an image has {height} x {width}; give "
                "multiples of the patch"
            )
        return height // patch, width // patch
