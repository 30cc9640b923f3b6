"""The image tower `visfocus.swin`: SwinV2 whose layers that merge patches attend to a prompt (ViLMA).

    X = four neighbours of x, concatenated              (B, h/2, w/2, 4c)
    A = LN( MHA(q = X + P, k = v = prompt) )            P learned positions
    y = LN( W (X + A) / 2 ),   W to 2c without a bias   "mean"; X + A is "sum"

Without a prompt, y = LN(W X), SwinV2's own. Behind the last stage, which merges nothing, the tokens x
are replaced by (x + A) / 2 before the final norm. The norm behind W cancels the factor, so that both
forms give the same tokens up to its epsilon.

Dimensions: B images, h x w tokens, c width of a stage, S tokens of a prompt, Q their width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.images import IMAGENET_MEAN, IMAGENET_STD, sides
from diptych.errors import InputError
from diptych.towers.build import image
from diptych.towers.encoded import Edit, Encoded
from diptych.towers.nn.attention import Attention
from diptych.towers.nn.parts import freeze
from diptych.towers.tower import ImageTower, preprocess_of

Blend = Literal["mean", "sum"]
Query = Literal["identity", "frozen", "random"]
"""The projection of queries: trained from the identity, the identity, or random and not trained."""


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Options of `visfocus.swin`. `width` and `heads` are those of the first stage, and twice as many in
    each later one. `prompt_width` is Q, None without a prompt, and `prompted` the stages behind which
    the prompt is read, 1 the first."""

    image_size: int | tuple[int, int] = (1536, 768)  # of each side, or (height, width)
    patch: int = 4
    width: int = 96
    heads: int = 3
    depths: tuple[int, ...] = (2, 2, 18, 2)
    window: int = 24
    drop_path: float = 0.0
    prompt_width: int | None = None
    prompted: tuple[int, ...] = ()
    blend: Blend = "mean"
    query: Query = "identity"
    preprocess: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", sides(self.image_size, "visfocus.swin image_size"))
        object.__setattr__(self, "depths", tuple(self.depths))
        object.__setattr__(self, "prompted", tuple(self.prompted))
        least = min(self.patch, self.width, self.heads, self.window, len(self.depths), *self.depths)
        if least < 1:
            raise InputError(
                "patch, width, heads, window and depths of visfocus.swin are at least 1, and there is a stage"
            )
        if self.width % self.heads:
            raise InputError(
                f"width {self.width} of visfocus.swin cannot be split over {self.heads} heads; choose heads that "
                "divide the width"
            )
        step = self.patch * 2 ** (len(self.depths) - 1)
        if any(side % step for side in _two(self.image_size)):
            raise InputError(
                f"visfocus.swin halves its map {len(self.depths) - 1} times: the sides of an image are multiples of "
                f"{step}, and image_size is {self.image_size}"
            )
        check_stages(self.prompted, len(self.depths))

    def grid(self, stage: int) -> tuple[int, int]:
        """The map (h, w) of a stage, 0 the first."""
        height, width = _two(self.image_size)
        step = self.patch * 2**stage
        return height // step, width // step


def check_stages(prompted: tuple[int, ...], count: int) -> None:
    """Raise InputError for stages that a tower of `count` stages does not have."""
    if len(set(prompted)) < len(prompted) or not set(prompted) <= set(range(1, count + 1)):
        raise InputError(
            f"the prompt is read behind the stages {prompted}, and there are the stages 1 to {count}; name each once"
        )


@image("visfocus.swin")
class PromptedSwin(ImageTower):
    """SwinV2 of timm's blocks, which may read a prompt. Its tokens are those of the last stage.

    >>> tower = PromptedSwin(SwinConfig(image_size=32, width=8, heads=2, depths=(1, 1), window=4))
    >>> tower.insert(16, (1, 2))
    >>> x = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    >>> tower(x, prompt=torch.randn(2, 5, 16)).tokens.shape
    torch.Size([2, 16, 16])
    """

    Config = SwinConfig

    def __init__(self, config: SwinConfig):
        default = {"size": config.image_size, "resize": "squash"}
        default |= {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        super().__init__(config, preprocess_of(config.preprocess, **default))
        if self.preprocess.size != config.image_size:
            raise InputError(
                f"visfocus.swin has image_size {config.image_size} but a preprocess of {self.preprocess.size}; make "
                "them equal"
            )
        stages = len(config.depths)
        self.swin = _swin()(
            img_size=_two(config.image_size),
            patch_size=config.patch,
            num_classes=0,
            global_pool="",
            embed_dim=config.width,
            depths=config.depths,
            num_heads=tuple(config.heads * 2**stage for stage in range(stages)),
            window_size=config.window,
            drop_path_rate=config.drop_path,
            pretrained_window_sizes=(0,) * stages,
            strict_img_size=False,  # masks are computed for the size that is given
        )
        self.width = config.width * 2 ** (stages - 1)
        self.vilma = nn.ModuleDict()
        if config.prompt_width is not None:
            self._add()

    def insert(
        self,
        prompt_width: int,
        prompted: tuple[int, ...],
        blend: Blend = "mean",
        query: Query = "identity",
    ) -> None:
        """Add the layers that read a prompt, with new weights, behind the stages `prompted`."""
        assert not self.vilma, "a prompt is read by one set of layers"
        options = {"prompt_width": prompt_width, "prompted": tuple(prompted)}
        self.config = replace(self.config, **options, blend=blend, query=query)
        self._add()

    def _add(self) -> None:
        config = self.config
        stages = len(config.depths)
        for stage in config.prompted:
            merges = stage < stages
            self.vilma[str(stage)] = PromptAttention(
                config.width * 2 ** (stage - 1) * (4 if merges else 1),
                config.heads * 2 ** (stage - 1),
                config.prompt_width,
                config.grid(stage if merges else stage - 1),
                blend=config.blend,
                query=config.query,
            )

    def embed(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> tokens (B, h, w, c) of the first stage."""
        return self.swin.patch_embed(self.pixels(x))

    def blocks(self, x: Tensor, prompt: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Tokens of the first stage -> tokens (B, h, w, D) of the last one."""
        for number, stage in enumerate(self.swin.layers):
            if number:
                x = self._merged(number, x, prompt, mask)
            for block in stage.blocks:
                x = block(x)
        last = str(len(self.swin.layers))
        if prompt is not None and last in self.vilma:
            x = self.vilma[last](x, prompt, mask)
        return x

    def _merged(self, number: int, x: Tensor, prompt: Tensor | None, mask: Tensor | None) -> Tensor:
        merging = self.swin.layers[number].downsample
        if prompt is None or str(number) not in self.vilma:
            return merging(x)
        x = self.vilma[str(number)](neighbours(x), prompt, mask)
        return merging.norm(merging.reduction(x))

    def finish(self, x: Tensor) -> Encoded:
        """Tokens (B, h, w, D) -> those behind the final norm, and their mean."""
        tokens = self.swin.norm(x)
        grid = (tokens.shape[1], tokens.shape[2])
        tokens = tokens.flatten(1, 2)
        return Encoded(tokens, tokens.mean(1), grid=grid)

    def forward(
        self,
        x: Tensor,
        *,
        prompt: Tensor | None = None,
        mask: Tensor | None = None,
        edit: Edit | None = None,
        hidden: Tensor | None = None,
        route: str = "tokens",
    ) -> Encoded:
        """Encode images with the states (B, S, Q) of a prompt, of which those of the mask (B, S) are
        real; without them as SwinV2. Raises InputError for an `edit` and for hidden patches."""
        if edit is not None or hidden is not None:
            raise InputError(
                "visfocus.swin has windows and no stream of tokens: nothing can be edited or hidden; choose a vit"
            )
        return self.finish(self.blocks(self.embed(x), prompt, mask))


class PromptAttention(nn.Module):
    """(X + A) / 2, or X + A, of tokens X (B, h, w, width) and A, what they find in a prompt."""

    def __init__(
        self,
        width: int,
        heads: int,
        prompt_width: int,
        grid: tuple[int, int],
        *,
        blend: Blend = "mean",
        query: Query = "identity",
    ):
        super().__init__()
        self.blend = blend
        self.positions = nn.Parameter(torch.randn(*grid, width) * width**-0.5)
        self.attention = Attention(width, heads, memory_width=prompt_width)
        self.norm = nn.LayerNorm(width)
        layers = (self.attention.q, self.attention.k, self.attention.v, self.attention.out)
        for layer in layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        if query != "random":
            nn.init.eye_(self.attention.q.weight)
        if query != "identity":
            freeze(self.attention.q)

    def forward(self, x: Tensor, prompt: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, h, w, width), states of a prompt (B, S, Q) and their mask (B, S) -> tokens."""
        queries = self.queries(x)
        found = self.norm(self.attention(queries, prompt.to(queries.dtype), mask=mask))
        together = x + found.view_as(x)
        return together / 2 if self.blend == "mean" else together

    def queries(self, x: Tensor) -> Tensor:
        """Tokens (B, h, w, width) with their positions, (B, h · w, width); positions are interpolated to
        a map of another size."""
        places = self.positions
        if places.shape[:2] != x.shape[1:3]:
            maps = places.movedim(2, 0)[None]
            size = list(x.shape[1:3])
            places = F.interpolate(maps, size, mode="bicubic", align_corners=False)[0].movedim(0, 2)
        return (x + places).flatten(1, 2)


def neighbours(x: Tensor) -> Tensor:
    """Tokens (B, h, w, c) -> each two by two of them, (B, h/2, w/2, 4c), in SwinV2's order: the rows of a
    column before the next column.

    >>> neighbours(torch.tensor([[[[0], [1]], [[2], [3]]]])).flatten().tolist()
    [0, 2, 1, 3]
    """
    h, w = x.shape[1:3]
    if h % 2 or w % 2:
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
    cells = x.unflatten(1, (-1, 2)).unflatten(3, (-1, 2))  # (B, h/2, 2, w/2, 2, c)
    return cells.permute(0, 1, 3, 4, 2, 5).flatten(3)


def _two(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _swin() -> Any:
    try:
        from timm.models.swin_transformer_v2 import SwinTransformerV2
    except ImportError as error:
        raise InputError(
            "visfocus.swin is built of timm's blocks; install it with: pip install 'diptych[vision]'"
        ) from error
    return SwinTransformerV2
