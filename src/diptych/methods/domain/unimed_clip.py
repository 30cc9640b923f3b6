"""UniMed-CLIP: Towards a Unified Image-Text Pretraining Paradigm for Diverse Medical Imaging Modalities
(Khattak et al., 2024).

Classified images become pairs: a bank has K captions of each class, one of which is drawn each time
an image is shown, unless the image has a caption of its own. All sources are mixed, and train one
CLIP whose text tower is a BERT.

    t = unit( W2 gelu(W1 h_CLS) ),   W1 (D + E)/2 x D, W2 E x (D + E)/2, both without bias
    L = 1/2 [ CE(s X T^T, diagonal) + CE(s T X^T, diagonal) ]

h_CLS (D) is BERT's last hidden state at the first token, E the width of the space. Captions of a
class repeat in a batch and remain negatives of each other's images: if m_i texts equal the i-th, the
loss is at least mean_i ln m_i. Inference: a class is the mean direction of a list of sentences.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from diptych.data.columns import WithColumns
from diptych.data.plan import Weighted
from diptych.data.sample import Source
from diptych.data.sources import Concat
from diptych.errors import InputError
from diptych.methods.base import Preset, Recipe, Stage
from diptych.methods.families.pairs import SMALL, Pairs, tune
from diptych.methods.make import Make
from diptych.methods.pretrain.clip import Config as ClipConfig
from diptych.objectives import info_nce
from diptych.spec import NetworkSpec, configure, parse
from diptych.towers.nn.heads import MLPConfig
from diptych.towers.nn.parts import Temperature

card = {
    "title": "UniMed-CLIP: Towards a Unified Image-Text Pretraining Paradigm for Diverse Medical Imaging Modalities",
    "year": 2024,
    "kind": "method",
    "entry": "UniMedCLIP",
    "provenance": "code",
}

PART = "part_of_data"
"""The label with the number of a sample's source."""


@dataclass(frozen=True, kw_only=True)
class Config(ClipConfig):
    """Options beside CLIP's.

    - `text_projection` is the head of the text tower (`towers.nn.heads`), of a new model.
    - `weights` says how often an epoch shows the samples of each source of `--data`, in their order;
      () is once each.
    """

    text_projection: NetworkSpec = "mlp:hidden=mean:norm=none:activation=gelu"
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        spec = parse(self.text_projection)
        if spec.name == "mlp" and configure(MLPConfig, spec.options, "head").mixes_samples:
            raise InputError(
                f"the batch norm of text_projection={self.text_projection} mixes samples; write norm=none or norm=layer"
            )
        if any(weight < 0 for weight in self.weights):
            raise InputError(
                f"weights={self.weights} has one below 0; a source of weight 0 is unused"
            )
        if self.weights and (self.distinct or self.together > 1):
            raise InputError("weights draw samples one by one; leave out distinct and together")


class UniMedCLIP(Pairs):
    """CLIP on a weighted mixture of pairs and classified images."""

    Config = Config

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        scale = Temperature(config.scale, clamp=(1.0, config.max_scale))
        self.model = make.dual(logit_scale=scale, text_projection=config.text_projection)

    def terms(self, image: Tensor, text: Tensor, **equal: Any) -> dict[str, Tensor]:
        return {"contrastive": info_nce(image, text, self.model.logit_scale(), **equal)}

    def stages(self) -> Sequence[Stage]:
        (stage,) = super().stages()
        weights = self.config.weights
        return (
            replace(stage, plan=Weighted(PART, dict(enumerate(weights)))) if weights else stage,
        )

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        weights = self.config.weights
        if not weights:
            return source
        parts = source.sources if isinstance(source, Concat) else [source]
        if len(parts) != len(weights):
            raise InputError(
                f"weights={weights} are of {len(weights)} sources, and --data names {len(parts)}: {source.name}; "
                "give one weight for each"
            )
        return WithColumns(source, {PART: np.repeat(np.arange(len(parts)), [*map(len, parts)])})


UniMedCLIP.presets = {
    "small": replace(
        SMALL,
        config={**SMALL.config, "scale": 5.0},  # a scale of 14 lets small towers collapse
        text="text:width=128:depth=1:heads=4:causal=false:pooling=first:dropout=0.1",
        tokenizer="bpe:vocab_size=2048:context=64",
    ),
    "paper": Preset(
        config={"augment": None},
        image="vit:image_size=224:patch=16:width=768:depth=12:heads=12:pre_norm=true:activation=quick_gelu",
        text="hf:model_type=bert:width=768:depth=12:heads=12:dropout=0.1:pooling=first",
        tokenizer="bpe:vocab_size=30522:context=256",
        embed_dim=512,
        recipe=Recipe(
            lr=5e-4, weight_decay=0.2, warmup=2000, epochs=10, batch_size=2048, precision="bfloat16"
        ),
    ),
}
UniMedCLIP.presets = {**UniMedCLIP.presets, "tune": tune(UniMedCLIP.presets["small"])}
