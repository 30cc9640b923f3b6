"""Full fine-tuning on labelled images, with lower rates for lower layers (Clark et al., ICLR 2020;
He et al., 2022).

The class embeddings come from the class names in a prompt, as for zero-shot, and the image tower is
trained to match them:

    L = mean_i CE(s <x_i, t_c>, c = y_i),   rate of block l of K: rate · decay^(K - l)

The text tower is frozen unless `text` is set; the scale is always frozen (`methods.tuning` has the
rates). Inference: as zero-shot, with any names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from diptych.methods.base import Stage
from diptych.methods.families.few_shot import PAPER, SMALL, Classify, ClassifyConfig
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
class Config(ClassifyConfig):
    """`decay` is the factor of the rate from block to block, 1 for none; `text` trains the text
    tower too."""

    decay: Decay = 0.75
    text: bool = False


class FineTune(Classify):
    """Trains the image tower against the embeddings of the class names."""

    Config = Config

    def build(self, encoder: DualEncoder) -> Classifier:
        freeze(encoder.logit_scale, encoder.logit_bias)
        if not self.config.text:
            freeze(encoder.text, encoder.text_projection)
        return Classifier(encoder, self.make.tokenizer, self.config.template, frozen=False)

    def stages(self) -> Sequence[Stage]:
        encoder = self.model.encoder
        config = self.config
        scale = layer_rates("model.encoder.image", encoder.image, config.decay)
        if config.text:
            scale |= layer_rates("model.encoder.text", encoder.text, config.decay)
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
}
