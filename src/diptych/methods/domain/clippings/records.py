"""A dual encoder that embeds records, an image with its text each."""

from typing import Any

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.models.delivered import Delivered, Validation
from diptych.models.model import Model
from diptych.towers.dual import DualEncoder
from diptych.towers.tower import ImageTower


class Records(Delivered):
    """The dual encoder `encoder`, and the weight of the image in a record's embedding.

    Validation is the suite `linkage` with a label and a role of texts.
    """

    reads = ("images.main", "texts.*", "labels.*")

    def __init__(self, encoder: DualEncoder, weight: float, label: str, role: str):
        super().__init__()
        self.encoder = encoder
        self.weight = weight
        self.label = label
        self.role = role

    @property
    def image(self) -> ImageTower:
        """The image tower, which has the preprocessing."""
        return self.encoder.image

    def extra_state(self) -> dict[str, Any]:
        return {"weight": self.weight}

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "RecordModel":
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return RecordModel(self, tokenizer, preprocess, name=name)


class RecordModel(Model):
    """A dual encoder whose `embed_records` has the weight that it was trained with."""

    def __init__(
        self, records: Records, tokenizer: Tokenizer | None, preprocess: Preprocess, *, name: str
    ):
        super().__init__(records.encoder, tokenizer, preprocess, name=name, delivered=records)
        self.record_weight = records.weight
        settings = {"label": records.label, "role": records.role}
        self.validation = Validation("linkage", ("top1", "pair_loss"), settings)
