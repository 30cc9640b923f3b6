"""What RenalCLIP is fine-tuned to: a diagnosis among classes, or a risk for survival.

    diagnosis    Dropout, Linear(D -> 128, no bias), BatchNorm, ReLU, Dropout, Linear(128 -> C)
    survival     Linear(D -> 128), ReLU, Linear(128 -> 128), ReLU, Linear(128 -> 1)

Both heads read the pooled output of the image tower, which is trained with them.

Dimensions: N volumes, D tower width, C classes.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diptych.data.tokenizers import Tokenizer
from diptych.data.volumes import AnyPreprocess
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.models.adapted import ClassifierModel
from diptych.models.class_names import check_names
from diptych.models.classifier import Classifier
from diptych.models.delivered import Delivered, Validation
from diptych.models.model import ImagesLike, Model, evaluating
from diptych.towers.dual import DualEncoder
from diptych.towers.tower import ImageTower


class Diagnosis(Classifier):
    """A classifier of the classes `trained`; `classes` may be any of these."""

    fixed: ClassVar[bool] = False

    def __init__(
        self, encoder: DualEncoder, tokenizer: Tokenizer | None, hidden: int, dropout: float
    ):
        super().__init__(encoder, tokenizer, frozen=False)  # type: ignore[arg-type]  # it reads no names
        self.hidden = hidden
        self.dropout = dropout
        self.trained: tuple[str, ...] = ()
        self.hold(())

    def hold(self, trained: Sequence[str]) -> None:
        """Build a new head for the classes `trained`, and set all of them as the classes."""
        self.trained = tuple(trained)
        self.head = nn.Sequential(
            nn.Dropout(self.dropout),
            nn.Linear(self.encoder.image.width, self.hidden, bias=False),
            nn.BatchNorm1d(self.hidden),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            nn.Linear(self.hidden, max(1, len(trained))),
        ).to(self.ids.device)
        if trained:
            self.set_classes(trained)

    def set_classes(self, names: Sequence[str]) -> None:
        """Set the classes to some of those trained. Raises InputError for others, and as
        `check_names` does."""
        classes = check_names(names)
        if others := [name for name in classes if name not in self.trained]:
            raise InputError(
                f"this model was trained to tell {', '.join(self.trained)} and not {others[0]!r}; name some of these"
            )
        self.classes = classes

    def logits(self, x: Tensor, texts: Tensor | None) -> Tensor:
        """Volumes (N, 1, D, H, W) -> logits (N, C)."""
        places = [self.trained.index(name) for name in self.classes]
        return self.head(self.encoder.encode_image(x).pooled)[:, places]

    def extra_state(self) -> dict[str, Any]:
        return {**super().extra_state(), "trained": list(self.trained)}

    def load_extra_state(self, values: Any) -> None:
        self.hold(values["trained"])
        super().load_extra_state(values)

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: AnyPreprocess | None, name: str
    ) -> "DiagnosisModel":
        assert preprocess is not None, "an image tower has a preprocessing"
        return DiagnosisModel(self, preprocess, name=name)  # type: ignore[arg-type]  # of volumes


class DiagnosisModel(ClassifierModel):
    """A classifier that also predicts the probability of each class."""

    def predict(
        self, images: ImagesLike, *, batch_size: int = 64, exact: bool = False
    ) -> dict[str, Tensor]:
        """The probability (N,) of each of the classes, by name; errors are those of
        `class_logits`."""
        logits = self.class_logits(images, batch_size=batch_size, exact=exact)
        return dict(zip(self.classes, logits.softmax(1).unbind(1), strict=True))


class Survival(Delivered):
    """An encoder with a head for the risk of an event; `time` and `event` are the labels of the
    training data."""

    def __init__(self, encoder: DualEncoder, hidden: int, time: str, event: str):
        super().__init__()
        self.encoder = encoder
        self.time = time
        self.event = event
        self.head = nn.Sequential(
            nn.Linear(encoder.image.width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    @property
    def image(self) -> ImageTower:
        """The image tower, which has the preprocessing."""
        return self.encoder.image

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # the labels are known once it is made
        """Fields of a source that validation reads."""
        return "images.main", f"labels.{self.time}", f"labels.{self.event}"

    def forward(self, x: Tensor) -> Tensor:
        """Volumes (N, 1, D, H, W) -> log risks (N,)."""
        return self.head(self.encoder.encode_image(x).pooled)[:, 0]

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: AnyPreprocess | None, name: str
    ) -> "SurvivalModel":
        assert preprocess is not None, "an image tower has a preprocessing"
        return SurvivalModel(self, tokenizer, preprocess, name=name)


class SurvivalModel(Model):
    """A model that predicts risks, and embeds as its encoder does."""

    def __init__(
        self,
        survival: Survival,
        tokenizer: Tokenizer | None,
        preprocess: AnyPreprocess,
        *,
        name: str,
    ):
        super().__init__(survival.encoder, tokenizer, preprocess, name=name, delivered=survival)
        self.survival = survival
        labels = {"time": survival.time, "event": survival.event}
        self.validation = Validation("survival", ("c_index",), labels)

    def predict(
        self, images: ImagesLike, *, batch_size: int = 64, exact: bool = False
    ) -> dict[str, Tensor]:
        """The logarithm of the relative `risk` (N,) of each volume; errors are those of
        `embed_images`."""
        batches, count = self._batches(images, batch_size, exact)
        if not count:
            raise InputError(f"{self.name} has no volume to predict from; give one at least")
        found = []
        with evaluating(self.survival), torch.inference_mode():
            for (pixels,) in batches:
                found.append(at_least_float32(self.survival(pixels.to(self.device))).cpu())
        return {"risk": torch.cat(found).clone()}
