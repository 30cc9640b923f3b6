"""Small runs for the tests of training."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from diptych.data.tokenizers import build
from diptych.methods.base import Recipe
from diptych.methods.make import Make
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.pretrain.siglip import SigLIP
from diptych.methods.registry import method_class
from diptych.testing import Toy
from diptych.training.engine import Engine
from diptych.training.options import Options

IMAGE = "vit:image_size=32:patch=16:width=32:depth=1:heads=2"
TEXT = "text:width=32:depth=1:heads=2"
METHODS = {"clip": CLIP, "siglip": SigLIP}


def tokenizer():
    toy = Toy(128)
    return build("bpe:vocab_size=320:context=24", [toy[i].captions()[0] for i in range(128)])


def make_method(name="clip", seed=0, image=IMAGE, text=TEXT, **config):
    torch.manual_seed(seed)
    cls = method_class(name)
    make = Make(image=image, text=text, embed_dim=32, tokenizer=tokenizer())
    return cls(cls.configure(config), make)


def make_engine(out: Path, *, method=None, source=None, backward=None, validate=None, recipe=None, **options) -> Engine:
    out.mkdir(parents=True, exist_ok=True)
    base = Recipe(lr=1e-3, batch_size=16, steps=9)
    extra = {"backward": backward} if backward else {}
    return Engine(
        method or make_method(),
        replace(base, **(recipe or {})),
        {"train": source or Toy(44)},
        out,
        Options(quiet=True, **options),
        validate=validate,
        **extra,
    )


def read_log(out: Path, times=False) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if times or k != "seconds"} for line in lines if line.get("event") != "start"
    ]
