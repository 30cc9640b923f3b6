"""Models and data of which a suite should say what is known."""

import numpy as np
import torch
from tests.evaluation.helpers import Fake, Rows, row

from diptych.data.sample import Field

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


class Seer(Fake):
    """Embeds words of colour as the colour; positions are the colour of their cell."""

    name = "seer"
    device = torch.device("cpu")

    def __init__(self, named=COLOURS):
        super().__init__(np.eye(3), size=8)
        self.named, self.encoder = named, self

    query_pooler = None

    def position_vectors(self, encoded):
        return encoded.patches

    def embed_texts(self, texts):
        rows = torch.tensor([self.named[text.split()[-1]] for text in texts]).float()
        return torch.nn.functional.normalize(rows, dim=1)


def clusters(
    seed: int, count: int = 120, classes: int = 4, noise: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Features (count, 6) around one centre a class, and the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = np.random.default_rng(1000).normal(size=(classes, 6))
    return centres[labels] + noise * rng.normal(size=(count, 6)), labels


def labelled_dots(count: int = 60, first: int = 0, **fields: Field) -> Rows:
    """Dot i of class i % 3."""
    return Rows(
        [row(f"{first}/{i}", i, f"t {i}", label=i % 3) for i in range(count)], fields=fields
    )


def class_model(count: int = 60) -> Fake:
    """A model whose vectors are near one direction a class."""
    table = np.eye(6)[np.arange(count) % 3] + 0.3 * np.random.default_rng(0).normal(size=(count, 6))
    return Fake(table)
