"""What the tests of NEVLP's second stage share."""

from dataclasses import replace

import torch
from tests.evaluation.helpers import Rows
from tests.factories import AT, make_method

from diptych.data.columns import WithColumns
from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sample import Field, Text
from diptych.methods.fuse.nevlp import NEVLP
from diptych.methods.make import Make
from diptych.testing import Toy
from diptych.training.prepare import Run

SIZES = {"width": 32, "depth": 2, "heads": 2, "queries": 3, "dropout": 0.0, "embed": 16}
NAMES = ("red", "blue", "circle", "bar")


def first(**config):
    """A model of the first stage."""
    made = make_method(NEVLP, **SIZES, min_count=1, concepts=2, **config)
    made.model.know(NAMES)
    return made.model.to_model(made.make.tokenizer, made.model.preprocess, "mine")


def second(start, task="captions", **config):
    options = {**SIZES, "concepts": 2, "task": task, **config}
    return make_method(NEVLP, make=Make.of(start), **options).eval()


def asked(count=4):
    """Samples with a caption, and a question with two answers."""
    texts = [Text(text="how many?", role="question"), *[Text(text="two", role="answer")] * 2]
    rows = [replace(Toy(count)[at], texts=[*Toy(count)[at].texts, *texts]) for at in range(count)]
    fields = {f"texts.{role}": Field(kind="text") for role in ("question", "answer")}
    return Rows(rows, fields=fields)


def batch(made, source):
    """All samples of a source in one batch, prepared by the method."""
    made.setup({"train": source})
    run = Run(made, {"train": source}, AT, torch.device("cpu"), batch_size=len(source))
    [stage] = made.stages()
    stage.prepare(run)
    columns = WithColumns(source, run.columns["train"])
    views = made.views(stage)
    [found] = Loader(columns, views, InOrder(), len(source)).epoch(0)
    return found
