"""What the tests of VladVA share."""

from dataclasses import replace

import torch
from tests.evaluation.helpers import Rows
from tests.factories import make_method
from tests.methods.fuse import cg_vlm_helpers

from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sample import Field, Text
from diptych.methods import store
from diptych.methods.adapters import merged
from diptych.methods.make import Make
from diptych.testing import Toy

PROMPTS = {"image_prompt": "the circle", "text_prompt": "a bar"}
SHAPE = {"n_ctx": 2, "tune": "lora:r=2:layers=all", "long": 1, **PROMPTS}


def base(folder, seed=0, **config):
    """A run of CG-VLM that holds its language model, saved and loaded."""
    options = {"lm": cg_vlm_helpers.LM, **config}
    return cg_vlm_helpers.saved(make_method("cg_vlm", seed, **options), folder)


def made(start, seed=0, moved=False, **config):
    """VladVA on a run; with `moved` its factors are not zero."""
    method = make_method("vladva", seed, make=Make.of(start), **{**SHAPE, **config}).eval()
    if moved:
        move(method)
    return method


@torch.no_grad()
def move(method):
    """Give the trained parameters random values."""
    generator = torch.Generator().manual_seed(5)
    for name, value in method.named_parameters():
        if value.requires_grad and "logit_scale" not in name:
            value.add_(0.3 * torch.randn(value.shape, generator=generator).to(value))
    return method


def batch(method, source):
    """All samples of a source in one batch."""
    [stage] = method.stages()
    [found] = Loader(source, method.views(stage), InOrder(), len(source)).epoch(0)
    return found


def captions(*texts):
    """As many samples as there are lists of captions."""
    toy = Toy(len(texts))
    rows = [
        replace(toy[at], texts=[Text(text=text) for text in each]) for at, each in enumerate(texts)
    ]
    return Rows(rows, fields={"texts.caption": Field(kind="text")})


def model_of(method):
    return method.model.to_model(method.make.words, method.model.image.preprocess, "mine")


def saved(method, folder):
    """The model of a method, saved as a run is, and loaded."""
    options = {name: value for name, value in vars(method.config).items() if value is not None}
    module = method.deliver()
    words = method.make.words
    description = store.describe("vladva", options, module, words, module.image.preprocess)
    store.save_model(folder, description, merged(module.state_dict(), method.make.adapter))
    return store.load(str(folder))
