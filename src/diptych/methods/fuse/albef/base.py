"""What pre-training and the task of answers share: an encoder whose batch norms may keep their
statistics, and its augmentation."""

from typing import Any, Self

from diptych.data.views import augmentation
from diptych.methods.base import Method, Stage
from diptych.methods.make import Make
from diptych.methods.tuning import keep_statistics


class FusionMethod(Method):
    """A method whose `model` has a dual encoder `encoder`, with the options of pairs."""

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.augment = augmentation(config.augment)

    @property
    def name(self) -> str:
        return "ALBEF"

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.config.keep_statistics:
            keep_statistics(self.model.encoder.image, self.model.encoder.text)
        return self

    def stage(self) -> Stage:
        """The stage of pairs: which samples share a batch, and the rates of the towers' layers."""
        return self.config.stage(self.model.encoder, "model.encoder")
