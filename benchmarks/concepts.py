"""A step of searching for concepts (cones) against one of class-own soft prompts (coop): time, and
what is kept.

ViT-B/32 with random weights, as many classes, and one optimiser's step of each: forward, loss,
backward, AdamW. Image vectors are kept from before on both sides, or on neither; the text side of
prompts changes with every step, and cannot be kept. Bytes are those that the graph holds after
forward.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.adapt import B32
from benchmarks.measure import against, interleaved, judged, saved_bytes
from diptych.data.tokenizers import build
from diptych.methods.make import Make
from diptych.methods.registry import method_class

PACKAGES = ()
VECTORS = 4  # of each class's prompt


def run(
    pairs: int = 7, classes: int = 50, batch: int = 32, towers: Mapping[str, Any] = B32
) -> list[dict]:
    ours = Side("cones", {}, classes, batch, towers)
    theirs = Side(
        "coop",
        {"class_specific": True, "init_from_template": False, "n_ctx": VECTORS},
        classes,
        batch,
        towers,
    )
    what = f"cones against coop, ViT-B/32, {classes} classes, batch {batch}"
    rows = []
    for how, kept in (("vectors kept", True), ("images embedded", False)):
        times = interleaved(
            lambda kept=kept: ours.step(kept), lambda kept=kept: theirs.step(kept), pairs
        )
        rows.append(judged(f"{what}, {how}", "CPU s", times, 1.0))
    held = against(*(saved_bytes(lambda side=side: side.loss(True)) for side in (ours, theirs)))
    return [*rows, judged(f"{what}, kept for backward", "bytes", held, 1.0)]


class Side:
    """A method on images of `classes` classes; a call of `step` takes one."""

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        classes: int,
        batch: int,
        towers: Mapping[str, Any],
    ):
        torch.manual_seed(0)
        cls = method_class(name)
        method: Any = cls(cls.configure(config), Make(**towers, tokenizer=build("clip")))
        names = [f"thing {number}" for number in range(classes)]
        if name == "cones":
            method.model.learn(method.side.module.concepts(names, "pooled"))
            method.model.leave_text()
        else:
            method.model.set_classes(names)
        self.model = method.train().model
        size = self.model.image.preprocess.size
        self.pixels = torch.randint(256, (batch, 3, size, size), dtype=torch.uint8)
        self.labels = torch.arange(batch) % classes
        with torch.no_grad():
            self.vectors = self.model.image_features(self.pixels)
        self.learnt = [parameter for parameter in method.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learnt, lr=1e-3)

    def loss(self, kept: bool) -> Tensor:
        """The loss of the batch, from its vectors or its images."""
        logits: Callable[[Tensor], Tensor] = self.model.of_vectors if kept else self.model
        return cross_entropy(logits(self.vectors if kept else self.pixels), self.labels)

    def step(self, kept: bool) -> None:
        self.optimizer.zero_grad()
        self.loss(kept).backward()
        self.optimizer.step()
