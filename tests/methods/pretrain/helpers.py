"""What several pretraining methods begin from."""

from tests.factories import make_method

from diptych.models.model import Model


def given_model() -> Model:
    """A small CLIP as a model that a run may begin from."""
    method = make_method("clip", seed=3)
    return Model(method.model, method.make.tokenizer, method.model.image.preprocess, name="given")
