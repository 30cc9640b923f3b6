"""Any image model of timm as a tower: `timm:resnet18`, `timm:vit_small_patch16_224:image_size=96`.

Dimensions: B samples, N tokens, D width, h x w the positions of a map, H x W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import InputError, brief, some, unknown
from diptych.towers.build import image
from diptych.towers.encoded import Edit, Encoded
from diptych.towers.nn.edits import edited
from diptych.towers.tower import ImageTower, preprocess_of


@dataclass(frozen=True, kw_only=True)
class TimmConfig:
    """Options of `timm`. Size, mean, std and interpolation come from the model's pretrained config
    unless given."""

    model: str  # timm's name, with or without a tag
    image_size: int | None = None
    pretrained: bool = False  # download timm's weights when building; later not part of the spec
    pool: str | None = None  # timm's global_pool; None: the model's own
    drop_path: float = 0.0
    margin: float | None = (
        None  # the image is scaled to this many times the size, and its centre cropped
    )
    mean: tuple[float, float, float] | None = None  # of the pixels, from 0 to 1
    std: tuple[float, float, float] | None = None
    levels: bool = False  # return the maps of all stages (or layers)
    head_conv: bool = (
        True  # False: an EfficientNet without the 1x1 convolution that widens its last map
    )
    small_stem: bool | None = None  # a ResNet's first convolution is 3x3, without pooling
    weights: str | None = (
        None  # a file of timm's weights, read when building; later not in the spec
    )
    preprocess: Mapping[str, Any] | None = None


@image("timm")
class TimmTower(ImageTower):
    """An image model of timm. Its tokens are those of a ViT, prefix included, or the positions of
    the last map.

    `pooled` and `width` are those of timm's head without the classifier. If that head widens the
    features (MobileNetV3), they are wider than the tokens. Images are scaled to the size; timm's
    `crop_pct` is ignored, but see `margin`. Batch norm in training mode mixes samples
    (`mixes_samples`): the engine makes its statistics global.

    A ResNet of CLIP pools by attention. By its route "values" the tokens are what the pooled vector
    would be if the attention were on that position alone. Its last stage can be run by itself
    (`before_last`, `from_last`), which `splits` says.
    """

    Config = TimmConfig
    argument = "model"
    added = ("pool", "small_stem", "weights")

    def __init__(self, config: TimmConfig):
        timm = _timm()
        if config.small_stem and (config.pretrained or config.weights):
            raise InputError(
                "a pretrained ResNet keeps its first convolution; leave out small_stem=true"
            )
        if config.pretrained and config.weights:
            raise InputError(
                f"pretrained=true downloads other weights than {config.weights}; leave one of them out"
            )
        if not timm.is_model(config.model.partition(".")[0]):
            raise unknown("timm model", config.model, timm.list_models())
        known = timm.get_pretrained_cfg(config.model) or timm.models.PretrainedCfg()
        size = config.image_size or (config.preprocess or {}).get("size") or known.input_size[-1]
        if known.interpolation not in ("bicubic", "bilinear"):
            known = replace(known, interpolation="bicubic")
        default = {
            "size": size,
            "mean": config.mean or known.mean,
            "std": config.std or known.std,
            "interpolation": known.interpolation,
        }
        default["margin"] = config.margin
        super().__init__(config, preprocess_of(config.preprocess, **default))
        given = {"drop_path_rate": config.drop_path or None, "global_pool": config.pool}
        options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        self._fixed = known.fixed_input_size
        if self._fixed and size != known.input_size[-1]:
            options["img_size"] = size
        try:
            self.model = timm.create_model(
                config.model, pretrained=config.pretrained, num_classes=0, **options
            )
        except TypeError as error:
            raise InputError(
                f"timm model {config.model!r} does not take {', '.join(options)}: {error}"
            ) from error
        if config.weights is not None:
            _read_weights(self.model, config, known)
        self.config = replace(config, image_size=size, pretrained=False, weights=None)
        self.width = int(getattr(self.model, "head_hidden_size", None) or self.model.num_features)
        if not config.head_conv:
            self.width = self._without_head_conv()
        if config.small_stem:
            self._shrink_stem()
        self.prefix = int(getattr(self.model, "num_prefix_tokens", 0))
        if isinstance(getattr(self.model, "head", None), timm.layers.AttentionPool2d):
            self.routes = ("tokens", "values")  # type: ignore[misc]  # of this model
            self.splits = hasattr(self.model, "stages")  # type: ignore[misc]

    def _without_head_conv(self) -> int:
        if not (hasattr(self.model, "conv_head") and hasattr(self.model, "bn2")):
            raise InputError(
                f"timm model {self.config.model!r} has no head convolution; leave out head_conv=false"
            )
        width = int(self.model.conv_head.in_channels)
        self.model.conv_head = nn.Identity()
        self.model.bn2 = nn.Identity()
        return width

    def _shrink_stem(self) -> None:
        """Replace the stem by the one that is usual for images of 32 pixels (He et al. 2016, CIFAR)."""
        if not all(hasattr(self.model, name) for name in ("conv1", "bn1", "maxpool")):
            raise InputError(
                f"timm model {self.config.model!r} is no ResNet; leave out small_stem=true"
            )
        self.model.conv1 = nn.Conv2d(3, self.model.bn1.num_features, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.model.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.model.maxpool = nn.Identity()

    def resize(self, image_size: int) -> None:
        """Change the image size. Raises InputError for a model that reads images of its own size alone."""
        if self._fixed:
            raise InputError(
                f"timm model {self.config.model!r} is built for images of {self.image_size} pixels; give "
                f"image_size={image_size} in its spec"
            )
        self.preprocess = replace(self.preprocess, size=image_size)

    def embed(self, x: Tensor) -> Tensor:
        """Only normalise pixels (B, 3, H, W): timm's models embed and encode in one call."""
        return self.pixels(x)

    def blocks(self, x: Tensor, edit: Edit | None = None) -> tuple[Tensor, Sequence[Tensor]]:
        """timm's features of the pixels and, if the config asks for `levels`, the maps of all
        stages."""
        layers = getattr(self.model, "blocks", ())
        if edit is not None and not (len(layers) and hasattr(self.model, "pos_embed")):
            raise InputError(
                f"timm model {self.config.model!r} has no token stream for an edit; choose a ViT"
            )
        with edited(list(layers), edit):
            if not self.config.levels:
                return self.model.forward_features(x), ()
            features, levels = self.model.forward_intermediates(x, output_fmt="NCHW")
            return features, tuple(levels)

    def finish(
        self, features: Tensor, levels: Sequence[Tensor] = (), grid: tuple[int, int] | None = None
    ) -> Encoded:
        """Pool features and return Encoded; `grid` is that of the patches, needed if features are
        tokens."""
        pooled = self.model.forward_head(features, pre_logits=True)
        if features.ndim == 3:
            return Encoded(features, pooled, prefix=self.prefix, grid=grid, levels=levels)
        last = (
            features.permute(0, 3, 1, 2)
            if getattr(self.model, "output_fmt", "NCHW") == "NHWC"
            else features
        )
        return Encoded(
            last.flatten(2).mT,
            pooled,
            grid=(last.shape[2], last.shape[3]),
            levels=levels or (last,),
        )

    def forward(
        self,
        x: Tensor,
        *,
        edit: Edit | None = None,
        hidden: Tensor | None = None,
        route: str = "tokens",
    ) -> Encoded:
        """Run `embed`, `blocks` and `finish`. An `edit` applies to ViTs only; hidden patches raise
        InputError."""
        if hidden is not None:
            raise InputError(
                "timm towers take no hidden patches; choose image tower vit with mask_token=true"
            )
        features, levels = self.blocks(self.embed(x), edit)
        found = self.finish(features, levels, self._grid(x, features))
        return replace(found, tokens=self._values(found)) if route == "values" else found

    def before_last(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> the map (B, C, h, w) that the last stage reads, where the tower
        `splits`."""
        x = self.model.stem(self.pixels(x))
        for stage in self.model.stages[:-1]:
            x = stage(x)
        return x

    def from_last(self, maps: Tensor) -> Encoded:
        """Maps (N, C, h, w), of whole images or cut from those, through the last stage and the pool."""
        return self.finish(self.model.final_conv(self.model.stages[-1](maps)))

    def _values(self, encoded: Encoded) -> Tensor:
        """The values (B, h · w, D) of the attention that pools the positions of the last map."""
        pool: Any = self.model.head
        resample = _timm().layers.resample_abs_pos_embed
        places = resample(
            pool.pos_embed[None],
            list(encoded.grid or ()),
            old_size=pool.feat_size,
            num_prefix_tokens=1,
        )
        tokens = encoded.tokens + places[:, 1:]
        if pool.qkv is None:
            return pool.v(tokens)
        weight = pool.qkv.weight.chunk(3)[2]
        return F.linear(
            tokens, weight, None if pool.qkv.bias is None else pool.qkv.bias.chunk(3)[2]
        )

    def _grid(self, x: Tensor, features: Tensor) -> tuple[int, int] | None:
        if features.ndim != 3:
            return None
        count = features.shape[1] - self.prefix
        patch = getattr(getattr(self.model, "patch_embed", None), "patch_size", None)
        if patch is not None:
            grid = (x.shape[-2] // patch[0], x.shape[-1] // patch[1])
            if count >= grid[0] * grid[1]:
                return grid
        # the patches of hybrids lie on a map of unknown size; a square image has a square grid
        side = round(count**0.5)
        return (side, side) if side**2 == count and x.shape[-2] == x.shape[-1] else None


def _read_weights(model: nn.Module, config: TimmConfig, known: Any) -> None:
    """Load a file of timm's weights into a model without a classifier.

    Raises InputError for a file that cannot be read, holds more than tensors, or is of another model.
    """
    where = f"the weights {config.weights} of timm model {config.model!r}"
    try:
        path = Path(str(config.weights)).expanduser()
        state = _timm().models.load_state_dict(str(path), weights_only=True)
        found = model.load_state_dict(state, strict=False)
    except Exception as error:  # timm, pickle and safetensors raise many kinds
        why = brief(error) or type(error).__name__
        raise InputError(f"{where} cannot be loaded ({why}); name a file of this model") from None
    heads = [known.classifier] if isinstance(known.classifier, str) else known.classifier or ()
    classifier = tuple(f"{name}." for name in heads)
    spare = [name for name in found.unexpected_keys if not name.startswith(classifier)]
    if found.missing_keys or spare:
        what = f"lack {some(found.missing_keys)}" if found.missing_keys else f"have {some(spare)}"
        raise InputError(f"{where} {what}; name a file of this model")


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise InputError(
            "timm towers need timm; install it with: pip install 'diptych[vision]'"
        ) from error
    return timm
