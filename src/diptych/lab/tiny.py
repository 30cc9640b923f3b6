"""The tiny model that ships: what it learns from, what it never sees, and the scores that it must reach.

    object, colour, count, quadrant   of the subject of held-out scenes: a linear probe of frozen picture vectors, and
                                      zero-shot by captions of all subjects that differ in the factor alone
    swap                              2-way: the caption of a scene against that of its twin with swapped attributes
    pair                              16-way: a colour and an object that training never shows together, among 4 x 4

Ties lose throughout. `make tiny` trains it (tools/make_tiny.py).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.data.worlds.scenes.words import COLOURS, NUMBERS, PLACES, article, plural
from diptych.evaluation import evaluate
from diptych.evaluation.probe import linear
from diptych.metrics import class_ranks
from diptych.rng import generator

SCENES = "scenes:styles=seen:texts=caption"
ALIKE = f"{SCENES}:same=1"
FACTORS = ("object", "colour", "count", "quadrant")
BARS = {  # linear probe, zero-shot
    "object": (0.65, 0.50),
    "colour": (0.90, 0.80),
    "count": (0.75, 0.50),
    "quadrant": (0.75, 0.50),
    "swap": (None, 0.70),
    "pair": (None, 3 / 16),
}
CHANCE = {"object": 1 / 20, "colour": 1 / 8, "count": 1 / 4, "quadrant": 1 / 4, "swap": 1 / 2, "pair": 1 / 16}

Table = Mapping[str, np.ndarray]


def scores(model: Any, split: str = "test", *, train: int = 4000, count: int = 2000) -> dict[str, dict[str, float]]:
    """`probe` and `zero_shot` of each factor, `zero_shot` of swap and pair; probes learn from `train` scenes of val."""
    found: dict[str, dict[str, float]] = {}
    x, y = _read(model, open_source(f"{ALIKE}:split=val:seed=1:count={train}"))
    test_x, test_y = _read(model, open_source(f"{ALIKE}:split={split}:count={count}"))
    objects = _objects()
    for factor in FACTORS:
        known, test_known = y[factor] >= 0, test_y[factor] >= 0
        right = test_y[factor][test_known]
        by_line = linear(x[known], y[factor][known], test_x[test_known], right, cs=(0.01, 0.1, 1.0))
        classes = torch.stack([_direction(model, prompts) for prompts in _prompts(factor, objects)])
        rank = class_ranks(torch.from_numpy(test_x[test_known]) @ classes.T, right)
        found[factor] = {"probe": by_line["top1"], "zero_shot": float((rank <= 1).mean()), "n": len(right)}
    swapped = open_source(f"{SCENES}:split={split}:edits=swap:number=2-4:same=0:drop=0:count={count // 2}")
    told = evaluate(model, swapped, ["composition"])["composition"]
    found["swap"] = {"zero_shot": told["i2t_2way"], "n": told["pairs"]}
    found["pair"] = pairs(model, count=count // 2)
    return found


def pairs(model: Any, *, count: int, split: str = "unseen") -> dict[str, float]:
    """Naming a colour and an object, never seen together, among 4 colours x 4 objects that hold both."""
    source = open_source(f"{SCENES}:split={split}:number=1:count={count}")
    x, y = _read(model, source)
    names, objects = tuple(COLOURS), _objects()
    unseen = [at for at in range(len(x)) if y["unseen"][at] in _COLOUR_UNSEEN]
    phrases = [f"{article(f'{colour} {name}')}" for colour in names for name in objects]
    vectors = torch.as_tensor(model.embed_texts(phrases)).unflatten(0, (len(names), len(objects)))
    hits = []
    for at in unseen:
        lot, colour, name = generator(0, "pairs", at), int(y["colour"][at]), int(y["object"][at])
        colours = [colour, *lot.permutation([c for c in range(len(names)) if c != colour])[:3].tolist()]
        kinds = [name, *lot.permutation([o for o in range(len(objects)) if o != name])[:3].tolist()]
        scores = (vectors[colours][:, kinds] @ torch.from_numpy(x[at])).flatten()
        hits.append(bool((scores[1:] < scores[0]).all()))
    return {"zero_shot": float(np.mean(hits)), "n": len(hits)}


_COLOUR_UNSEEN = (1, 3)


def _objects() -> tuple[str, ...]:
    return open_source(f"{SCENES}:count=1").schema()["labels.object"].classes


def _read(model: Any, source: Source) -> tuple[np.ndarray, Table]:
    """Vectors (N, E) of all pictures, and their labels."""
    samples = [source[i] for i in range(len(source))]
    vectors = model.embed_images([sample.images["main"] for sample in samples])
    names = (*FACTORS, "unseen")
    return np.asarray(vectors), {name: np.array([sample.labels[name] for sample in samples]) for name in names}


def _prompts(factor: str, objects: Sequence[str]) -> list[list[str]]:
    """For each value of a factor the captions of all objects that have it."""
    if factor == "object":
        return [
            [article(name), f"there is {article(name)}", *(article(f"{c} {name}") for c in COLOURS)] for name in objects
        ]
    if factor == "colour":
        return [[article(f"{colour} {name}") for name in objects] for colour in COLOURS]
    if factor == "count":
        return [[f"{NUMBERS[n]} {name if n == 1 else plural(name)}" for name in objects] for n in range(1, 5)]
    return [[f"{article(name)} {way}" for name in objects for way in ways] for ways in PLACES.values()]


def _direction(model: Any, prompts: Sequence[str]) -> Tensor:
    return normalize(torch.as_tensor(model.embed_texts(list(prompts))).mean(0), dim=0)


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """A line a score beside its bar."""
    lines = []
    for name, (probe, zero_shot) in BARS.items():
        told = found[name]
        parts = [f"zero-shot {told['zero_shot']:.3f} (bar {zero_shot:.3f}, chance {CHANCE[name]:.3f})"]
        if probe is not None:
            parts.insert(0, f"probe {told['probe']:.3f} (bar {probe:.2f})")
        lines.append(f"{name:9} {', '.join(parts)}, n {told['n']}")
    return "\n".join(lines)


Progress = Callable[[str], None]
