"""The suite of typos, against correlations of texts that are written by hand."""

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Words

from diptych.data.typos import TYPOS, misspell
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.sts import report
from diptych.evaluation.suites.typos import typos
from diptych.rng import generator

ROWS = [
    {"caption": f"some {a} things happen", "pair": f"other {b} things stopped", "score": float(s)}
    for a, b, s in (
        ("large", "small", 1),
        ("green", "green", 5),
        ("broken", "large", 2),
        ("small", "broken", 0),
        ("large", "large", 4),
        ("green", "small", 3),
    )
]


class Letters:
    """A model whose vector counts letters, and which remembers what it read."""

    name = "letters"
    identity = "letters"

    def __init__(self):
        self.read = []

    def embed_texts(self, texts):
        self.read += texts
        counts = [[1 + text.count(letter) for letter in "abcdeghlnoprst013"] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(counts, dtype=torch.float32), dim=1)


def test_numbers_are_those_of_the_misspelt_texts():
    model = Letters()
    found = typos(model, Words(ROWS), kinds=["drop", "lookalike"], rates=[0.3, 0.8], seeds=[4, 5])
    table = {}
    for kind in ("drop", "lookalike"):
        for rate in (0.3, 0.8):
            each = []
            for seed in (4, 5):
                sides = [
                    [
                        misspell(
                            row[role], [kind], rate, generator(seed, "typos", kind, n, side), 0
                        )
                        for n, row in enumerate(ROWS)
                    ]
                    for side, role in enumerate(("caption", "pair"))
                ]
                a, b = (model.embed_texts(side) for side in sides)
                scores = np.array([row["score"] for row in ROWS])
                each.append(report(a.numpy(), b.numpy(), scores)["spearman"])
            table[kind, rate] = np.mean(each)
    for (kind, rate), value in table.items():
        assert found["by_typos"][kind][f"{rate:g}"] == pytest.approx(value, abs=1e-9)
    assert found["spearman_typos"] == pytest.approx(np.mean(list(table.values())))
    clean = evaluate(model, Words(ROWS), ["sts"])["sts"]
    assert found["spearman"] == clean["spearman"]
    assert found["pearson"] == clean["pearson"]
    assert found["n"] == 6
    assert found["chance_spearman_typos"] == 0


def test_texts_that_differ_in_case_alone_are_not_taken_for_one():
    """Typos keep the case, and a text without a typo is embedded once."""
    model = Letters()
    rows = [
        {"caption": "BIG", "pair": "big", "score": 1.0},
        {"caption": "a", "pair": "b", "score": 0.0},
    ]
    typos(model, Words(rows), kinds=["drop"], rates=[0.5])
    assert sorted(model.read) == ["BIG", "a", "b", "big"]


def test_what_is_no_curve_is_refused():
    for options, message in (
        ({"kinds": ["swop"]}, "did you mean 'swap'"),
        ({"kinds": []}, "no curve|make no"),
        ({"rates": []}, "make no"),
        ({"rates": [0.0]}, "rates above 0"),
        ({"rates": [1.5]}, "rates above 0"),
        ({"score": "grade"}, "score"),
    ):
        with pytest.raises(InputError, match=message):
            typos(Letters(), Words(ROWS), **options)
    assert set(TYPOS) == {"swap", "drop", "double", "neighbour", "lookalike", "split"}
