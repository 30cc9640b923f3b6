"""Real-valued labels, such as indicators of a place, from a frozen image tower: the frozen evaluation of
UrbanCLIP (Yan et al., 2024) as a model to keep and to use.

    y'_l = mean_l + std_l · ( W_2 drop(relu(W_1 x + b_1)) + b_2 )_l
    L    = mean over samples and labels of ( (y'_l - y_l) / std_l )²

x is the unit embedding of an image, mean and std are those of the label in the training data. A label
that a sample lacks has no loss. Each image is embedded once. Inference: `predict`.

Dimensions: B images, C labels, E embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.images import Preprocess
from diptych.data.loader import require
from diptych.data.sample import Source, real_labels_of
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import ArrayView, ImageView, LabelView, View
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.families.few_shot import PAPER, SMALL
from diptych.methods.make import Make
from diptych.models.delivered import Delivered, Validation
from diptych.models.model import ImagesLike, Model, evaluating
from diptych.spec import Dropout, Width
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature, freeze
from diptych.towers.tower import ImageTower

card = {
    "title": "Real-valued labels by a small network on a frozen image tower",
    "year": 2024,
    "kind": "method",
    "entry": "Regress",
    "provenance": "code",
    "abilities": {"predict": "diptych fit MODEL SOURCE --target LABEL --out RUN"},
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """`labels` are the names of the labels, "carbon,gdp", by default all with real values; `hidden` is
    the width of the network, `dropout` that of its hidden layer."""

    labels: str | tuple[str, ...] = ()
    hidden: Width = 256
    dropout: Dropout = 0.01

    @property
    def names(self) -> tuple[str, ...]:
        """The labels that are named."""
        given = self.labels.split(",") if isinstance(self.labels, str) else self.labels
        return tuple(name.strip() for name in given if name.strip())


class Regressor(Delivered):
    """A frozen encoder, and a network from its image embeddings to values of `labels`."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, encoder: DualEncoder, tokenizer: Tokenizer | None, hidden: int, dropout: float
    ):
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        freeze(encoder)
        self.hidden = hidden
        self.dropout = dropout
        self.hold(())

    def hold(self, labels: Sequence[str]) -> None:
        """Allocate the network for these labels."""
        self.labels = tuple(labels)
        like = next(self.encoder.parameters())
        count = max(1, len(labels))
        self.register_buffer("mean", like.new_zeros(count))
        self.register_buffer("std", like.new_ones(count))
        self.head = nn.Sequential(
            nn.Linear(self.encoder.embed_dim, self.hidden),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            nn.Linear(self.hidden, count),
        ).to(like.device)

    @property
    def image(self) -> ImageTower:
        """The image tower, which has the preprocessing."""
        return self.encoder.image

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # the labels are known once it is made
        """The fields that a validation source needs."""
        return "images.main", *(f"labels.{name}" for name in self.labels)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> values (B, C)."""
        found = self.head(self.encoder.embed_images(x).to(self.mean.dtype))
        return self.mean + self.std * found

    def extra_state(self) -> dict[str, Any]:
        return {"labels": list(self.labels)}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        self.hold(values["labels"])

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "RegressorModel":
        assert preprocess is not None, "an image tower has a preprocessing"
        return RegressorModel(self, self.tokenizer or tokenizer, preprocess, name=name)


class RegressorModel(Model):
    """A model that predicts the values of labels, and embeds as its encoder does."""

    def __init__(
        self,
        regressor: Regressor,
        tokenizer: Tokenizer | None,
        preprocess: Preprocess,
        *,
        name: str,
    ):
        super().__init__(regressor.encoder, tokenizer, preprocess, name=name, delivered=regressor)
        self.regressor = regressor
        settings = {"by": "predict", "labels": list(regressor.labels)}
        self.validation = Validation("indicators", ("mean_r2",), settings)

    def predict(
        self, images: ImagesLike, *, batch_size: int = 64, exact: bool = False
    ) -> dict[str, Tensor]:
        """The value (N,) of each label for each image; errors are those of `embed_images`."""
        batches, count = self._batches(images, batch_size, exact)
        if not count:
            raise InputError(f"{self.name} has no image to predict from; give one at least")
        found = []
        with evaluating(self.regressor), torch.inference_mode():
            for (pixels,) in batches:
                found.append(at_least_float32(self.regressor(pixels.to(self.device))).cpu())
        values = torch.cat(found).clone()
        return {name: values[:, at] for at, name in enumerate(self.regressor.labels)}


class Regress(Method):
    """A network on frozen embeddings that predicts real-valued labels."""

    Config = Config
    adapts = True
    test_options: ClassVar = {"labels": ("height",)}
    model: Regressor

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        encoder = make.dual(logit_scale=Temperature(100.0, form="fixed"))
        self.model = Regressor(encoder, make.words, config.hidden, config.dropout)
        if config.names:
            self.model.hold(config.names)

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Find the labels and their scales. Raises InputError if there is none with real values, or one
        has a single value."""
        source = sources["train"]
        schema = source.schema()
        named = self.config.names
        labels = named or tuple(
            name.removeprefix("labels.")
            for name, field in schema.items()
            if name.startswith("labels.") and field.kind == "float"
        )
        if not labels:
            raise InputError(
                f"{source.name} has no label with real values; name those to predict with --target "
                "(of `diptych train`, --method.labels)"
            )
        require(source, tuple(f"labels.{name}" for name in labels), self.name)
        if labels != self.model.labels:
            self.model.hold(labels)
        for at, name in enumerate(labels):
            values = real_labels_of(source, name)
            values = values[np.isfinite(values)]
            if len(values) < 2 or np.ptp(values) == 0:
                raise InputError(
                    f"the label {name!r} of {source.name!r} has {len(np.unique(values))} value; give samples of others "
                    "too, or name other labels with --method.labels"
                )
            self.model.mean[at] = float(values.mean())
            self.model.std[at] = float(values.std())

    def stages(self) -> Sequence[Stage]:
        return (Stage(min_batch=1, prepare=self.embed),)

    def needs(self, stage: Stage, stream: str = "train") -> tuple[str, ...]:
        return "images.main", *super().needs(stage, stream)

    def embed(self, run: Any) -> None:
        """Embed all images once."""
        source = run.sources["train"]
        view = ImageView(preprocess=self.model.image.preprocess, augment=None)
        require(source, view.reads, self.name)
        embed = self.model.encoder.embed_images
        run.store(
            "train", run.map(lambda batch: {"image": embed(batch.image.flat)}, [view], source)
        )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        kept = ArrayView(array="image", shape=(self.model.encoder.embed_dim,))
        return kept, *(
            LabelView(label=name, name=f"label{at}", real=True)
            for at, name in enumerate(self.model.labels)
        )

    def encode(self, batch: Batch, at: At) -> Features:
        vectors: Any = batch.fields["image"]
        return {"values": self.model.head(vectors.to(self.model.mean.dtype))}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        names = range(len(self.model.labels))
        given = torch.stack(
            [torch.as_tensor(batch.fields[f"label{each}"]) for each in names], dim=1
        )
        targets = (given.to(self.model.mean) - self.model.mean) / self.model.std
        known = targets.isfinite()
        off = (features["values"] - targets.nan_to_num()).square() * known
        mean = off.sum() / known.sum().clamp(min=1)
        return Losses({"values": mean}, {"explained": 1 - mean})

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "predict {run} IMAGES",
            "evaluate {run} --data {data} --suite indicators --by predict",
        )


_RECIPE = Recipe(
    lr=3e-4,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.01,
    schedule="constant",
    warmup=0.0,
    batch_size=32,
    epochs=100,
)
Regress.presets = {
    "small": replace(
        SMALL, config={"hidden": 256, "dropout": 0.01}, recipe=replace(_RECIPE, lr=1e-2)
    ),
    "paper": replace(PAPER, config={"hidden": 256, "dropout": 0.01}, recipe=_RECIPE),
    "tune": Preset(recipe=_RECIPE),
}
