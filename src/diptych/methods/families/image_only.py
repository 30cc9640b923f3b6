"""Base of methods on images alone: several views of each image, one tower, a projector and no text.

These are the baselines that vision-language methods build on and are compared with. `represent`
returns the tower's pooled output before the projector, which the papers probe; `embed_images`
returns the output behind it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.views import Augment, ImageView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Method, Preset, Stage
from diptych.methods.families import pairs
from diptych.methods.make import NO_TOWER, Make
from diptych.spec import NetworkSpec, Positive, configure
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature

STRONG: Mapping[str, Any] = {
    "crop": (0.08, 1.0), "flip": True, "colour": (0.8, 0.8, 0.8, 0.2), "recoloured": 0.8, "grey": 0.2, "blur": 0.5,
}  # fmt: skip
"""SimCLR's augmentation at full strength."""

SMALL = replace(
    pairs.SMALL,
    config={"augment": {**STRONG, "crop": (0.3, 1.0), "colour": (0.4, 0.4, 0.4, 0.1)}},
    text=NO_TOWER,
    embed_dim=128,
)
PAPER = Preset(image="timm:resnet50:image_size=224", text=NO_TOWER, embed_dim=128)
"""The tower that all of these papers use; each method sets the rest."""


@dataclass(frozen=True, kw_only=True)
class ImageOnlyConfig:
    """`augment` holds options of `data.views.Augment`; `projector` is the head behind the tower
    (`towers.nn.heads`)."""

    augment: Mapping[str, Any] = field(default_factory=lambda: dict(STRONG))
    projector: NetworkSpec = "mlp:hidden=2048"


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(ImageOnlyConfig):
    """`tau` is the temperature."""

    tau: Positive = 0.1


class ImageOnly(Method):
    """Two views of each image, (B, 2, E) behind the projector, not normalised."""

    Config = ImageOnlyConfig
    chunkable = False  # batch norm in the projectors mixes samples
    model: DualEncoder

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return "evaluate {run} --data {data} --suite probe", "embed {run} SOURCE --out EMB"

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        if make.text_spec != NO_TOWER:
            raise InputError(
                "this method sees images alone; leave out --text-tower, and start from no model of texts"
            )
        self.augment = configure(Augment, dict(config.augment), "augment")
        self.model = self.build(make)

    def build(self, make: Make) -> DualEncoder:
        """Return the tower with its projector."""
        return make.dual(
            logit_scale=Temperature(1.0, form="fixed"), image_projection=self.config.projector
        )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return (ImageView(preprocess=self.model.image.preprocess, augment=self.augment, count=2),)

    def encode(self, batch: Batch, at: At) -> Features:
        return {"views": self.projected(self.model, batch)}

    @staticmethod
    def projected(model: Any, batch: Batch) -> Tensor:
        """Return the projector's output for every view (B, V, E)."""
        pooled = model.encode_image(batch.image.flat).pooled
        return model.project_image(pooled).unflatten(0, (len(batch), -1))
