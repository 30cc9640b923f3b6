"""A model that answers with an image and without by a table."""

import torch
from tests.evaluation.helpers import Fake, vectors


class Table(Fake):
    """Answers question q about image n by `told[n, q]`, and without an image by `told[None, q]`; the
    log-probability of text t behind is `scores[n, t]`, -9 by default."""

    name = "table"
    asked_alone = True

    def __init__(self, told=None, scores=None, identity="table"):
        super().__init__(vectors(0))
        self.told = told or {}
        self.scores = scores or {}
        self.identity = identity

    def places(self, images, count):
        return [None] * count if images is None else self.numbers(images).tolist()

    def generate(self, images, prompts=None, *, batch_size):
        assert prompts is not None
        return [
            self.told.get((n, q), "?")
            for n, q in zip(self.places(images, len(prompts)), prompts, strict=True)
        ]

    def log_prob(self, images, texts, prompts=None, *, batch_size):
        places = self.places(images, len(texts))
        return torch.tensor(
            [self.scores.get((n, t), -9.0) for n, t in zip(places, texts, strict=True)]
        )
