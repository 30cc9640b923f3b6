"""Classification: the class of every image of a source, by a model that has `class_logits`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diptych.data.descriptions import bank, read_lists
from diptych.data.sample import Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, place_of, read_images
from diptych.methods.abilities import require
from diptych.models.class_names import mean_directions


@dataclass(frozen=True)
class Named:
    """An image by its key, its path if it is a file, the most likely classes with their
    probabilities, and the groups of prompts with their weights if they were asked for."""

    key: str
    path: str
    classes: tuple[tuple[str, float], ...]
    groups: tuple[tuple[str, float], ...] = ()


def name_images(
    model: Any,
    source: Source,
    *,
    k: int = 3,
    route: bool = False,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> tuple[list[Named], Counter[str]]:
    """Return the `k` most likely of `model.classes` for every image `main`, in the source's order,
    and the number of unreadable images by reason.

    Probabilities are the softmax over all classes. With `route` the groups of prompts that an image
    was routed to are returned too. Raises InputError for a model without classes, or without such
    groups, and if no image can be read.
    """
    require(model, "class_logits", "naming images")
    if route:
        require(model, "route", "telling the groups of prompts")
    found: list[Named] = []
    bad: Counter[str] = Counter()

    steps = Steps(progress, len(source))
    for pixels, facts in read_images(
        model, source, place_of, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        classes = likeliest(model.class_logits(pixels, batch_size=batch_size), model.classes, k)
        groups = model.route(pixels, batch_size=batch_size) if route else [()] * len(classes)
        found += [
            Named(*fact, *reported) for fact, *reported in zip(facts, classes, groups, strict=True)
        ]
    return found, bad


def likeliest(logits: Tensor, names: Sequence[str], k: int) -> list[tuple[tuple[str, float], ...]]:
    """Return for each row of logits (N, C) the `k` most probable classes, the most probable first.

    >>> import torch
    >>> likeliest(torch.tensor([[0.0, 2.0, 1.0]]), ("cat", "dog", "owl"), 2)
    [(('dog', 0.665...), ('owl', 0.244...))]
    """
    share, which = logits.float().softmax(1).cpu().topk(min(k, logits.shape[1]), dim=1)
    return [
        tuple((names[int(at)], float(value)) for at, value in zip(places, shares, strict=True))
        for places, shares in zip(which.tolist(), share.tolist(), strict=True)
    ]


def counts(named: Sequence[Named]) -> dict[str, int]:
    """Return how many images were assigned to each class, the most frequent first.

    >>> counts([Named("a", "", (("cat", 0.9),)), Named("b", "", (("dog", 0.6), ("cat", 0.4)))])
    {'cat': 1, 'dog': 1}
    """
    return dict(Counter(each.classes[0][0] for each in named).most_common())


def set_sentences(model: Any, path: str) -> None:
    """Set the classes of a JSON file {"cat": ["a cat has whiskers.", …], …}: each is the mean direction
    of its sentences.

    Raises InputError for a class without sentences, and a model with prompts of its own.
    """
    if hasattr(model, "classifier"):
        raise InputError(
            f"{model.name} was trained with prompts of its own; give names without sentences"
        )
    sentences = read_lists(path)
    names = list(sentences)
    texts = [text for own in bank(path, names) for text in own]
    sizes = [len(own) for own in sentences.values()]
    vectors = mean_directions(model.embed_texts(texts), sizes, model.shares)
    model.set_classes(names, text_embeddings=vectors)
