"""What pre-training and its tasks share: an encoder whose batch norms may keep their statistics, the size
of its images, and its augmentation."""

from typing import Any, Self

from diptych.data.views import augmentation
from diptych.methods.base import Method, Stage
from diptych.methods.make import Make
from diptych.methods.tuning import keep_statistics
from diptych.towers.dual import DualEncoder
from diptych.towers.regions import set_size


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

    def set_size(self, encoder: DualEncoder) -> None:
        """Give the image tower the size that the options name, with the weights of the given model.
        Raises InputError for one that is not whole patches."""
        if self.config.size is not None:
            set_size(encoder.image, self.config.size, "method.size")

    def stage(self) -> Stage:
        """The stage of pairs: which samples share a batch, and the rates of the towers' layers."""
        return self.config.stage(self.model.encoder, "model.encoder")
