"""Learning semantic sentence representations from visually grounded language without lexical knowledge
(Merkx and Frank, 2019).

Sentences are read as characters by a recurrent network that is trained only to match captions with
images. Its embeddings are then those of any sentences.

    c = unit( GRU and attention per feature of the characters )     (`tower`)
    x = unit( W f + b ),   f the features of a frozen image tower, the mean over ten crops     (`images`)
    L = 1/B² Σ_{i ≠ j} [ max(0, m + S_ij - S_jj) + max(0, m + S_ij - S_ii) ],   S = x cᵀ

Several heads are kept apart by a further term (`objectives.diversity`). The learning rate goes
through cycles; the networks at their ends are kept, and their embeddings summed (`snapshots`).
Inference: the cosine of two sentences, or of a sentence and an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.loader import require
from diptych.data.pairs import ORIGIN, by_text
from diptych.data.plan import Distinct, Shuffled
from diptych.data.sample import Source
from diptych.data.views import ArrayView, ImageView, TextView, View
from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.make import Make
from diptych.methods.text.grounded_sentences.images import TenCrops
from diptych.methods.text.grounded_sentences.objectives import (
    Reduction,
    batch_hinge,
    distances,
    diversity,
)
from diptych.methods.text.grounded_sentences.snapshots import Snapshots
from diptych.methods.text.grounded_sentences.tower import GRUTower
from diptych.models.model import Model
from diptych.spec import AtLeast, ModelSpec, Natural, NotNegative, parse
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature, freeze
from diptych.towers.tower import ImageTower

card = {
    "title": "Learning semantic sentence representations from visually grounded language without lexical knowledge",
    "year": 2019,
    "kind": "method",
    "entry": "GroundedSentences",
    "provenance": "code",
}

FEATURES = "image_features"
"""The column with the features of the images."""
_FEATURES_STAGE = "features"
_SCALE = 1 / 0.07
_IMAGE = "delivered.encoder.image_projection"
_TEXT = "delivered.encoder.text"
Bound = Annotated[float, AtLeast(0)]
"""A bound of a gradient's norm; 0: none."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options.

    - `role` is the role of the captions; an epoch has each caption of each image once.
    - `features` is a model, as `--init` takes it, whose image tower is used, in place of
      `--image-tower`. `crops` is 10, or 1 for the whole image.
    - `margin`, `reduction` and `hardest` are those of `objectives.batch_hinge`.
    - `distinct_attention` says over which texts of a batch the attention of the heads has to
      differ: all of them, or the first alone, as in the published code.
    - `cycles` is the number of cycles of the learning rate, at whose ends snapshots are taken; with
      0 the schedule is that of the recipe, and the last weights are delivered.
    - `clip_image` and `clip_text` bound the norms of the gradients of the image's linear map and of
      the text tower; 0 is no bound.
    """

    role: str = "caption"
    features: ModelSpec = ""
    crops: Literal[1, 10] = 10
    margin: NotNegative = 0.2
    reduction: Reduction = "b2"
    hardest: bool = False
    distinct_attention: Literal["all", "first"] = "all"
    cycles: Natural = 8
    clip_image: Bound = 0.0
    clip_text: Bound = 0.0


@dataclass(frozen=True)
class EachImageOnce:
    """Passes over the images, each with another of their captions, so that no image is in a batch
    twice."""

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]:
        several = f"labels.{ORIGIN}" in source.schema()
        plan = Distinct(ORIGIN) if several else Shuffled()
        return plan(source, seed, epoch, batch)


class GroundedSentences(Method):
    """A text tower and a linear map of image features, trained by the hinge loss of a batch."""

    Config = Config

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        if make.words is None:
            raise InputError(
                "grounded_sentences reads texts, and this model came without a tokenizer; start from "
                "one of images and texts"
            )
        self.took_features = False
        encoder = self._fresh(make) if make.fresh else make.dual(logit_scale=_temperature())
        if encoder.text is None or encoder.pool != "before":
            raise InputError(
                "grounded_sentences reads texts and one vector of each image; start from a model that "
                "has a text tower and projects the pooled vector of an image"
            )
        freeze(encoder.image, encoder.logit_scale, encoder.logit_bias)
        self.delivered = Snapshots(encoder, config.cycles)
        if encoder.text.mixes_samples:
            self.chunkable = False  # type: ignore[misc]  # attention over pads: see `masked`

    def _fresh(self, make: Make) -> DualEncoder:
        """Return an encoder with new weights but for those of `features`."""
        config = self.config
        image = self._of_model(config.features) if config.features else make.image()
        self.took_features = bool(config.features)
        if config.crops > 1:
            image = TenCrops.of(image)
        text = make.text()
        recurrent = isinstance(text, GRUTower)
        if recurrent and text.width != make.embed_dim:
            raise InputError(
                f"the text tower is {text.width} wide (heads x 2 x hidden), and its vectors are the embeddings; "
                f"give --embed-dim {text.width}"
            )
        encoder = DualEncoder(
            image,
            text,
            make.embed_dim,
            logit_scale=_temperature(),
            image_projection="affine",
            text_projection="none" if recurrent else "linear",
        )
        nn.init.xavier_uniform_(encoder.image_projection.weight)  # type: ignore[arg-type]
        return encoder

    def _of_model(self, spec: str) -> ImageTower:
        model = store.load(spec)
        if not isinstance(model, Model):
            raise InputError(
                f"{spec} embeds no images, and features are of its image tower; name a model that does, such as tiny"
            )
        return model.encoder.image

    @property
    def model(self) -> DualEncoder:  # type: ignore[override]  # a property: registered only once
        """The encoder that is trained."""
        return self.delivered.encoder

    def deliver(self) -> Snapshots:
        return self.delivered

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "evaluate {run} --data {data} --suite retrieval",
            "evaluate {run} --data PAIRS --suite sts",
            "embed {run} SENTENCES.txt --out EMB",
        )

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.model.image.eval()
        return self

    def setup(self, sources: Mapping[str, Source]) -> None:
        if self.config.features and not self.took_features:
            raise InputError(
                f"--init brings its own image tower; leave out --method.features {self.config.features}, or --init"
            )

    def stages(self) -> Sequence[Stage]:
        config = self.config
        clip = {_IMAGE: config.clip_image, _TEXT: config.clip_text}
        cyclic = {"schedule": f"cyclic:cycles={config.cycles}", "warmup": 0.0}
        features = Stage(name=_FEATURES_STAGE, prepare=self.embed, optimize=False)
        match = Stage(
            plan=EachImageOnce(),
            clip={prefix: bound for prefix, bound in clip.items() if bound},
            recipe=cyclic if config.cycles else {},
        )
        return features, match

    def embed(self, run: Any) -> None:
        """Compute the features of all images once, for the next stage to read."""
        source = run.sources["train"]
        views = self.views(self.stages()[0])
        require(source, views[0].reads, self.name)
        if self._is_untrained():
            run.warn(
                "the image tower has random weights, and stays as it is; name a model whose tower has learnt, such as "
                "--method.features tiny"
            )

        def look(batch: Batch) -> Mapping[str, Tensor]:
            return {FEATURES: self.model.encode_image(batch.image.flat).pooled.float()}

        run.store("train", run.map(look, views, source))

    def _is_untrained(self) -> bool:
        """Whether the image tower has neither the weights of a model nor those of its library."""
        if self.took_features or not self.make.fresh or not isinstance(self.make.image_spec, str):
            return False
        spec = parse(self.make.image_spec)
        return not (spec.options.get("pretrained") or spec.name.startswith("hf:"))

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        return by_text(source, self.config.role) if stage.optimize else source

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        if not stage.optimize:
            return (ImageView(preprocess=self.model.image.preprocess),)
        return (
            ArrayView(array=FEATURES, shape=(self.model.image.width,)),
            TextView(tokenizer=self.make.tokenizer, role=self.config.role),
        )

    def encode(self, batch: Batch, at: At) -> Features:
        features: Any = batch.fields[FEATURES].to(self.model.image.mean.dtype)
        image = normalize(self.model.project_image(features), dim=-1)
        return {"image": image, **self._encode_texts(batch)}

    def _encode_texts(self, batch: Batch) -> Features:
        ids, lengths = batch.text.flat
        tower = self.model.text
        if self._heads < 2:
            return {"text": self.model.embed_texts(ids, lengths)}
        assert isinstance(tower, GRUTower)
        hidden = tower.blocks(tower.embed(ids), lengths)
        weights = tower.weights(hidden, lengths)
        text = self.model.project_text(tower.pool(hidden, weights))
        return {"text": normalize(text, dim=-1), "apart": distances(weights)}

    @property
    def _heads(self) -> int:
        tower = self.model.text
        return tower.config.heads if isinstance(tower, GRUTower) else 1

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        config = self.config
        image = features["image"]
        text = features["text"]
        hinge = batch_hinge(
            image, text, config.margin, reduction=config.reduction, hardest=config.hardest
        )
        terms = {"hinge": hinge}
        if self._heads > 1:
            heads: Any = self.model.text.attention  # type: ignore[union-attr]
            first = config.distinct_attention == "first"
            matrices = [head.first.weight for head in heads]
            terms["diversity"] = diversity(matrices, features["apart"], text, first=first)
        return Losses(terms)

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        """Take a snapshot at the end of each cycle; if that step was skipped, after the next
        one."""
        due = (at.step + 1) * self.config.cycles // at.steps
        if int(self.delivered.taken) < due:
            self.delivered.take()


def _temperature() -> Temperature:
    """The fixed scale of class probabilities, which training does not use."""
    return Temperature(_SCALE, form="fixed")


# The published recipe: Adam, from 1e-6 up to the rate and back in each of eight cycles of four
# epochs.
_RECIPE = Recipe(
    optimizer="adam",
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    schedule="cyclic:cycles=8",
    warmup=0.0,
    min_lr=1e-3,
    batch_size=32,
    epochs=32,
)
GroundedSentences.presets = {
    "small": Preset(
        config={"cycles": 4, "clip_image": 0.0025, "clip_text": 0.05},
        image="conv:image_size=48:widths=(48,96,192):depths=(1,1,1)",
        text="grounded_sentences.gru:hidden=128:heads=2:attention=64",
        tokenizer="chars:full_stop=true",
        embed_dim=512,
        recipe=replace(_RECIPE, lr=3e-3, schedule="cyclic:cycles=4", epochs=8),
    ),
    # Flickr8k. ResNet-152 has its weights with --image-tower timm:resnet152:pretrained=true.
    "paper": Preset(
        config={"clip_image": 0.0025, "clip_text": 0.05},
        image="timm:resnet152:image_size=224",
        text="grounded_sentences.gru:hidden=1024:heads=2:attention=128",
        tokenizer="chars:full_stop=true",
        embed_dim=4096,
        recipe=_RECIPE,
    ),
    "coco": Preset(
        image="timm:resnet152:image_size=224",
        text="grounded_sentences.gru:hidden=1024:heads=1:attention=128",
        tokenizer="chars:full_stop=true",
        embed_dim=2048,
        recipe=replace(_RECIPE, lr=1e-4, min_lr=1e-2),
    ),
}
