"""What the tests of CG-VLM share."""

from dataclasses import replace

from tests.evaluation.helpers import Rows

from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sample import Field, Text
from diptych.methods import store
from diptych.methods.base import At
from diptych.testing import Toy

LM = "text:width=32:depth=2:heads=2"
ALIGN = At(0, 10, 0, 0, "align")
INSTRUCT = At(0, 10, 0, 0, "instruct")


def asked(count=4):
    """Samples with two questions of two choices, beside their captions."""
    texts = [
        Text(text="how many?", role="question", attrs={"choices": ("two", "three")}),
        Text(text="two", role="answer"),
        Text(text="is it red?", role="question", attrs={"choices": ("yes", "no")}),
        Text(text="no", role="answer"),
    ]
    rows = [replace(Toy(count)[at], texts=[*Toy(count)[at].texts, *texts]) for at in range(count)]
    fields = {f"texts.{role}": Field(kind="text") for role in ("caption", "question", "answer")}
    return Rows(rows, fields=fields)


def batch(made, source, at=ALIGN):
    """All samples of a source in one batch, as a stage reads them."""
    [stage] = [stage for stage in made.stages() if stage.name == at.stage]
    [found] = Loader(source, made.views(stage), InOrder(), len(source)).epoch(0)
    return found


def saved(made, folder, **config):
    """The model of a method, saved and loaded."""
    options = {name: value for name, value in vars(made.config).items() if value is not None}
    description = store.describe(
        "cg_vlm", options | config, made.model, made.make.tokenizer, made.model.image.preprocess
    )
    store.save_model(folder, description, made.model.state_dict())
    return store.load(str(folder))
