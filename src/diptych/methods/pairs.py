"""What methods on (picture, text) pairs share: one picture, one text, two embeddings a sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diptych.data.batch import Batch
from diptych.data.plan import Distinct, Shuffled
from diptych.data.views import Augment, PictureView, TextView, View
from diptych.methods.base import At, Features, Method, Stage
from diptych.methods.make import Make
from diptych.spec import configure
from diptych.towers.dual import DualEncoder


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """`role` is the role of the texts; `distinct` names a label of which a batch holds each value at most once, so that
    pictures of one thing are no false negatives of each other."""

    role: str = "caption"
    augment: Mapping[str, Any] = field(default_factory=dict)  # options of data.views.Augment
    distinct: str | None = None


class Pairs(Method):
    """A dual encoder on pairs: a subclass builds `self.model` and gives the loss on unit-norm features (B, E)."""

    Config = PairConfig
    model: DualEncoder

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.augment = configure(Augment, dict(config.augment), "augment")

    def stages(self) -> Sequence[Stage]:
        return (Stage(plan=Distinct(self.config.distinct) if self.config.distinct else Shuffled()),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return (
            PictureView(preprocess=self.model.image.preprocess, augment=self.augment),
            TextView(tokenizer=self.make.tokenizer, role=self.config.role),
        )

    def encode(self, batch: Batch, at: At) -> Features:
        return {
            "image": self.model.embed_images(batch.image.flat),
            "text": self.model.embed_texts(*batch.text.flat),
        }
