"""Methods that adapt to classes, small, and what is asked of all of them."""

from dataclasses import replace

import numpy as np
import torch
from tests.factories import small_make

from diptych.methods.base import At
from diptych.methods.registry import method_class
from diptych.testing import Toy
from diptych.towers.dual import DualEncoder
from diptych.training.prepare import Run

NAMES = ("red circle", "blue square", "bar")
IMAGE = "vit:image_size=32:patch=16:width=64:depth=3:pre_norm=true"
TEXT = "text:width=32:depth=3:heads=2"
CLIP_B16 = {
    "image": "vit:image_size=224:patch=16:width=768:depth=12:heads=12:pre_norm=true",
    "text": "text:width=512:depth=12:heads=8",
    "embed_dim": 512,
}


def method(name, *, image=IMAGE, tower=TEXT, embed_dim=32, words=None, classes=NAMES, **config):
    """A method with towers of three layers that has been given the classes."""
    torch.manual_seed(0)
    cls = method_class(name)
    options = cls.configure(config)
    parts = small_make(image, tower, embed_dim, words, adapter=cls.adapter(options))
    made = cls.of(options, parts)
    made.model.set_classes(classes)
    return made.eval()


def learnt(made):
    """How many numbers are trained."""
    return sum(p.numel() for p in made.parameters() if p.requires_grad)


def zero_shot(made, template="a photo of a {}."):
    """The embeddings of the classes' names in a template, text by text."""
    encoder: DualEncoder = made.model.encoder
    words = made.model.tokenizer
    rows = words.encode([template.replace("{}", name) for name in made.model.classes])
    features = [encoder.embed_texts(torch.tensor([row]), torch.tensor([len(row)])) for row in rows]
    return torch.cat(features)


class Labelled(Toy):
    """Toys of three named classes; `lost` of them have no label."""

    def __init__(self, count, lost=()):
        super().__init__(count, ["images.main", "labels.class"])
        self.lost = lost

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return replace(sample, labels={"class": int(self.labels("class")[index])})

    def schema(self):
        schema = super().schema()
        return {
            **schema,
            "labels.class": replace(
                schema["labels.class"], classes=schema["labels.class"].classes[:3]
            ),
        }

    def labels(self, name):
        return np.array([-1 if index in self.lost else index % 3 for index in range(len(self))])


def filled(count=7, lost=(), **config):
    """Tip-Adapter with the cache of a source, and the source."""
    made = method("tip_adapter", **config)
    source = Labelled(count, lost)
    made.setup({"train": source})
    made.fill(Run(made, {"train": source}, At(0, 0, 0, 0), torch.device("cpu")))
    return made.eval(), source
