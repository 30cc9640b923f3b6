"""Linear probe: multinomial logistic regression on a frozen image tower (Radford et al., ICML 2021,
appendix A.3).

    logits_c = w_c · x + b_c,   min over w, b   C · sum_i CE(logits_i, y_i) + |w|² / 2

x are features of the images, standardised while w is fitted. C is chosen on a held-out fifth of
them, then all are fitted. This is the regression of the suite `probe` (`diptych.linear`), as a
classifier to keep and to use.

Each class has separate weights and no text is read. So there are no classes but those of the
training data, and the model may be one of images alone. Inference: the logits of all classes, or of
some.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.data.batch import Batch
from diptych.data.sample import Source
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import LabelView, View
from diptych.dtypes import at_least_float32
from diptych.errors import InputError, unknown
from diptych.linear import SEARCHES, classifier, weights
from diptych.methods.base import Stage
from diptych.methods.families.few_shot import PAPER, SMALL, Classify, LabelConfig, class_names
from diptych.models.class_names import check_names
from diptych.models.classifier import Classifier
from diptych.towers.dual import DualEncoder

card = {
    "title": "Linear probe of a frozen image tower",
    "year": 2021,
    "kind": "method",
    "entry": "LinearProbe",
    "provenance": "paper",
}

Features = Literal["embedding", "pooled"]


@dataclass(frozen=True, kw_only=True)
class Config(LabelConfig):
    """`features` are the embedding, of unit norm, or the image tower's pooled output before the
    projection; `search` is how C is searched for (`diptych.linear`)."""

    features: Features = "embedding"
    search: str = "grid"

    cached: ClassVar[bool] = True  # each image is read once, without augmentation

    def __post_init__(self) -> None:
        if self.search not in SEARCHES:
            raise unknown("search of a linear probe", self.search, SEARCHES)


class Linear(Classifier):
    """A classifier with `weight` (C', D) and `bias` (C',) of the classes `trained`; `classes` may
    be any of these."""

    fixed: ClassVar[bool] = False
    weight: Tensor
    bias: Tensor

    def __init__(self, encoder: DualEncoder, tokenizer: Tokenizer | None, features: Features):
        super().__init__(encoder, tokenizer)  # type: ignore[arg-type]  # it reads no names
        self.features: Features = features
        self.trained: tuple[str, ...] = ()
        self.hold(())

    @property
    def width(self) -> int:
        """The width of the features."""
        return self.encoder.embed_dim if self.features == "embedding" else self.encoder.image.width

    def hold(self, trained: Sequence[str]) -> None:
        """Allocate the weights of the classes `trained`, and set all of them as the classes."""
        self.trained = tuple(trained)
        device = self.ids.device
        self.register_buffer("weight", torch.zeros(len(trained), self.width, device=device))
        self.register_buffer("bias", torch.zeros(len(trained), device=device))
        if trained:
            self.set_classes(trained)

    def set_classes(self, names: Sequence[str]) -> None:
        """Set the classes to some of those trained. Raises InputError for others, and as
        `check_names` does."""
        classes = check_names(names)
        if others := [name for name in classes if name not in self.trained]:
            raise InputError(
                f"a linear probe has no weights for {others[0]!r}, which none of its {len(self.trained)} classes is "
                "called: name classes of its training (of data with more, :classes=NAME+NAME), train it again with "
                "images of this one, or take a method that reads names, such as tip_adapter"
            )
        self.classes = classes

    def image_features(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> features (N, D); those of a clip (N, V, 3, H, W) are the mean of its
        frames'."""
        if self.features == "embedding":
            return self.encoder.embed_images(x)
        if x.ndim == 5:
            return self.image_features(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)
        return self.encoder.encode_image(x).pooled

    def logits(self, x: Tensor, texts: Tensor | None) -> Tensor:
        """Images (N, 3, H, W) -> logits (N, C)."""
        places = [self.trained.index(name) for name in self.classes]
        return F.linear(
            self.image_features(x).to(self.weight.dtype), self.weight[places], self.bias[places]
        )

    def extra_state(self) -> dict[str, Any]:
        return {**super().extra_state(), "trained": list(self.trained)}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        self.hold(values["trained"])
        super().load_extra_state(values)


class LinearProbe(Classify):
    """Weights for each class, fitted in one solve."""

    Config = Config
    named: ClassVar[bool] = False
    model: Linear  # type: ignore[assignment]

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return "classify {run} IMAGES", "evaluate {run} --data {data} --suite zeroshot"

    def build(self, encoder: DualEncoder) -> Linear:
        return Linear(encoder, self.make.words, self.config.features)

    def setup(self, sources: Mapping[str, Source]) -> None:
        if names := class_names(sources["train"], self.config.label):
            self.model.hold(check_names(names))

    def stages(self) -> Sequence[Stage]:
        return (Stage(name="fit", prepare=self.fit, optimize=False),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return self.image_view, LabelView(label=self.config.label, name="class")

    @torch.no_grad()
    def fit(self, run: Any) -> None:
        """Fit the weights and copy them into the classifier."""

        def read(batch: Batch) -> dict[str, Tensor]:
            labels: Any = batch.fields["class"]
            return {
                "features": at_least_float32(self.model.image_features(batch.image.flat)),
                "labels": labels,
            }

        source = run.sources["train"]
        model = self.model
        found = run.map(read, self.views(self.stages()[0]), source)
        known = found["labels"] >= 0
        x = found["features"][known]
        y = found["labels"][known].astype(np.int64)
        solved, C = classifier(x, y, seed=run.at.seed, **SEARCHES[self.config.search])
        weight, bias = (torch.from_numpy(values).to(model.weight) for values in weights(solved))
        model.weight.copy_(weight)
        model.bias.copy_(bias)
        logits = F.linear(torch.from_numpy(x).to(weight), weight, bias)
        labels = torch.from_numpy(y)
        hits = (logits.argmax(1) == labels).float().mean()
        run.note(0, 1, float(F.cross_entropy(logits, labels)), accuracy=float(hits), C=C)


LinearProbe.presets = {
    "small": SMALL,
    # CLIP's probes: pooled features before the projection, and the fine search. The recipe has no
    # effect, since there is no gradient descent.
    "paper": replace(PAPER, config={"features": "pooled", "search": "halving"}),
}
