"""Full fine-tuning with lower rates for lower layers (Clark et al., ICLR 2020; He et al., 2022), on
labelled images or on images with captions.

    rate of block l of K: rate · decay^(K - l)

On classes, the class embeddings come from the class names in a prompt, as for zero-shot, and the
image tower is trained to match them. The text tower is frozen unless `text` is set; the scale is
always frozen (`methods.tuning` has the rates).

On pairs the loss is CLIP's (`families.tuned`), of both towers and the scale. Without `image` the
image tower is frozen, which is locked-image tuning (Zhai et al., LiT, CVPR 2022); if nothing is
drawn from the images either (`augment` is None), each of them is embedded once, before training.
Inference: as zero-shot, with any names or texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from diptych.data.batch import Batch
from diptych.data.loader import require
from diptych.data.views import ArrayView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Stage
from diptych.methods.families import pairs
from diptych.methods.families.few_shot import PAPER, SMALL
from diptych.methods.families.tuned import TunedConfig, TunedOnClasses, TunedOnPairs
from diptych.methods.make import Make
from diptych.methods.tuning import Decay, layer_rates
from diptych.models.classifier import Classifier
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import freeze

card = {
    "title": "Full fine-tuning with layer decay",
    "year": 2020,
    "kind": "method",
    "entry": "FineTune",
    "provenance": "paper",
}


@dataclass(frozen=True, kw_only=True)
class Config(TunedConfig):
    """`decay` is the factor of the rate from block to block, 1 for none; `image` and `text` say
    which towers are trained."""

    decay: Decay = 0.75
    image: bool = True
    text: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.image or self.text):
            raise InputError("neither tower is trained; set image or text")


class FineTuneOnPairs(TunedOnPairs):
    """Trains the towers on pairs."""

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        for side in ("image", "text"):
            if not getattr(config, side):
                freeze(getattr(self.model, side), getattr(self.model, f"{side}_projection"))

    @property
    def cached(self) -> bool:
        """Whether each image is embedded once, before training."""
        return not self.config.image and self.augment is None

    def stages(self) -> Sequence[Stage]:
        [stage] = super().stages()
        return (replace(stage, prepare=self.embed if self.cached else None),)

    def embed(self, run: Any) -> None:
        """Embed all images once and store the vectors for the steps to read."""
        source = run.sources["train"]
        view = super().views(Stage())[0]
        require(source, view.reads, self.name)
        embed = self.model.embed_images
        run.store(
            "train", run.map(lambda batch: {"image": embed(batch.image.flat)}, [view], source)
        )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        images, *texts = super().views(stage, stream)
        if stage.prepare == self.embed:
            images = ArrayView(array="image", shape=(self.model.embed_dim,))
        return images, *texts

    def _encode_images(self, batch: Batch, at: At) -> Features:
        vectors = batch.fields.get("image")
        return super()._encode_images(batch, at) if vectors is None else {"image": vectors}


class FineTune(TunedOnClasses):
    """Trains the image tower against the embeddings of the class names."""

    Config = Config
    on_pairs = FineTuneOnPairs

    def build(self, encoder: DualEncoder) -> Classifier:
        freeze(encoder.logit_scale, encoder.logit_bias)
        if not self.config.image:
            freeze(encoder.image, encoder.image_projection)
        if not self.config.text:
            freeze(encoder.text, encoder.text_projection)
        return Classifier(encoder, self.make.tokenizer, self.config.template, frozen=False)

    def stages(self) -> Sequence[Stage]:
        scale: dict[str, float] = {}
        for side in ("image", "text"):
            if getattr(self.config, side):
                tower = getattr(self.encoder, side)
                scale |= layer_rates(f"model.encoder.{side}", tower, self.config.decay)
        return (Stage(lr_scale=scale),)


FineTune.presets = {
    "small": replace(
        SMALL, recipe=replace(SMALL.recipe, optimizer="adamw", betas=(0.9, 0.999), lr=3e-4)
    ),
    # No single paper's: [choice] rate, weight decay, batch and epochs near WiSE-FT's on ImageNet;
    # the layer decay, the warm-up over a fifth of training and the random crops are ours, not
    # WiSE-FT's.
    "paper": replace(
        PAPER,
        recipe=replace(
            PAPER.recipe,
            optimizer="adamw",
            betas=(0.9, 0.999),
            lr=3e-5,
            weight_decay=0.1,
            batch_size=512,
            epochs=10,
        ),
    ),
    "tune": pairs.tune(SMALL, on="pairs", text=True),
}
