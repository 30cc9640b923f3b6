"""Classification: the class of every image of a source, by a model that has `class_logits`."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from diptych.data.descriptions import bank, read_lists
from diptych.data.images import is_image
from diptych.data.sample import Source
from diptych.data.sources import DataLike, open_source
from diptych.data.templates import templates as banks
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, place_of, read_images
from diptych.evaluation.suites.zeroshot import named_label
from diptych.methods.abilities import require
from diptych.models.adapted import TrainedClassesModel
from diptych.models.class_names import mean_directions
from diptych.results import Tabular


@dataclass(frozen=True)
class Named:
    """An image by its key, its path if it is a file, the most likely classes with their
    probabilities, and the groups of prompts with their weights if they were asked for."""

    key: str
    path: str
    classes: tuple[tuple[str, float], ...]
    groups: tuple[tuple[str, float], ...] = ()


class Classified(Tabular, list[Named]):
    """The images of a source with their likeliest classes, of `classes`; `bad` are the numbers of
    images that cannot be read, by reason."""

    classes: tuple[str, ...] = ()
    bad: Mapping[str, int] = MappingProxyType({})

    def records(self) -> list[dict[str, Any]]:
        """A row for each image: its first class, and the others with their probabilities."""
        return [
            {
                "image": each.path or each.key,
                "class": each.classes[0][0],
                "probability": each.classes[0][1],
                "then": ", ".join(f"{name} {share:.2f}" for name, share in each.classes[1:]),
            }
            for each in self
        ]


def name_source(
    model: Any,
    images: DataLike,
    names: Sequence[str] | str | Path | None = None,
    *,
    templates: Sequence[str] | None = None,
    label: str | None = None,
    k: int = 3,
    route: bool = False,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> Classified:
    """Return the `k` likeliest classes of every image of a source, or of one image file. The
    classes stay set in the model.

    `names` are the classes, as a list, as "a,b", or as a file: one on each line, or a JSON file of
    sentences by class. Without them the classes are those that the model was trained on, else the
    class names of `label` in the source. `templates` are prompts around a name or banks of them
    (`data.templates`), by default "images". `route` is that of `name_images`. Raises InputError for
    a model that names no classes, and where no class is given.
    """
    single = isinstance(images, str | Path) and is_image(images)
    source = None if single else open_source(images)
    require(model, "class_logits", "diptych classify", model.name)
    if route:
        require(model, "route", "--route", model.name)
    if isinstance(names, str | Path) and str(names).lower().endswith(".json"):
        if templates is not None:
            raise InputError(f"{names} has whole sentences; leave out --template")
        set_sentences(model, str(names))
    else:
        trained = isinstance(model, TrainedClassesModel)  # it has prompts of its own
        specs = templates if templates is not None else () if trained else ("images",)
        prompts = [template for spec in specs for template in banks(spec)]
        own = model.classes if trained else ()
        model.set_classes(_classes(own, source, names, label), prompts)
    found = Classified()
    if source is None:
        path = Path(str(images))
        [classes] = likeliest(model.class_logits(path, exact=exact), model.classes, k)
        [groups] = model.route(path, exact=exact) if route else [()]
        found.append(Named(path.name, str(images), classes, groups))
    else:
        settings = {"k": k, "route": route, "batch_size": batch_size, "exact": exact}
        rows, found.bad = name_images(model, source, progress=progress, **settings)
        found.extend(rows)
    found.classes = tuple(model.classes)
    found.title = f"{images if source is None else source.name} by {model.name}"
    return found


def _classes(
    trained: Sequence[str],
    source: Source | None,
    names: Sequence[str] | str | Path | None,
    label: str | None,
) -> list[str]:
    """Return the requested classes, else those that the model was trained on, else those of the
    images."""
    missing = "no class is named; give --names 'A,B,C', or a file with one a line"
    if names is None and trained and label is None:
        return list(trained)
    if names is None and source is None:
        raise InputError(missing)
    if names is None:
        assert source is not None
        try:
            chosen = named_label("classify", source, label)
        except InputError as error:
            raise InputError(f"{missing} ({error})") from None
        return list(source.schema()[f"labels.{chosen}"].classes)
    if not isinstance(names, str | Path):
        return list(names)
    path = Path(names).expanduser()
    if os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises for long texts)
        return [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    if path.suffix == ".txt":
        raise InputError(f"--names {names}: there is no such file; check the path")
    return str(names).split(",")


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
