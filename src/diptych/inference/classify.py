"""Classification: the class of every image of a source, by a model that has `class_logits`, or of every
text by a model of texts alone (`classify_texts`)."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from diptych.data.descriptions import bank, read_lists
from diptych.data.images import is_image
from diptych.data.sample import BadSample, Source, lost_samples
from diptych.data.sources import DataLike, open_source
from diptych.data.templates import templates as banks
from diptych.errors import InputError
from diptych.evaluation.embed import (
    Progress,
    Steps,
    clip_or_image,
    embed_texts,
    nothing_left,
    place_of,
    read_images,
)
from diptych.evaluation.suites._labels import named_label
from diptych.evaluation.suites.retrieval import role_of
from diptych.evaluation.suites.text_labels import cosines, label_field, label_names, matched
from diptych.methods.abilities import matches_labels, require
from diptych.models.adapted import TrainedClassesModel
from diptych.models.class_names import check_names, mean_directions, read_names
from diptych.models.model import Model, TextModel
from diptych.results import Tabular


@dataclass(frozen=True)
class Named:
    """An image by its key, its path if it is a file, the most likely classes with their
    probabilities, and the groups of prompts with their weights if they were asked for. In place of
    an image it may be a `text`."""

    key: str
    path: str
    classes: tuple[tuple[str, float], ...]
    groups: tuple[tuple[str, float], ...] = ()
    text: str = ""

    @property
    def shown(self) -> str:
        """What stands for it in a table."""
        return self.path or self.text or self.key


class Classified(Tabular, list[Named]):
    """The images or texts of a source with their likeliest classes, of `classes`; `bad` are the numbers
    of those that cannot be read, by reason."""

    classes: tuple[str, ...] = ()
    bad: Mapping[str, int] = MappingProxyType({})

    def records(self) -> list[dict[str, Any]]:
        """A row for each image or text: its first class, and the others with their probabilities."""
        return [
            {
                "text" if each.text else "image": each.shown,
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
    role: str | None = None,
    k: int = 3,
    route: bool = False,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> Classified:
    """Return the `k` likeliest classes of every image of a source, or of one image file. The
    classes stay set in the model. Of a model of texts alone return those of every text of `role`
    (`name_texts`).

    `names` are the classes, as a list, as "a,b", or as a file: one on each line, or a JSON file of
    sentences by class. Without them the classes are those that the model was trained on, else the
    class names of `label` in the source. `templates` are prompts around a name or banks of them
    (`data.templates`), by default "images". `route` is that of `name_images`. Raises InputError for
    a model that names no classes, and where no class is given.
    """
    if isinstance(model, TextModel) and not isinstance(model, Model):
        if route:
            require(model, "route", "--route", model.name)
        how: dict[str, Any] = {"templates": templates, "label": label, "role": role, "k": k}
        source = open_source(images)
        return name_texts(model, source, names, batch_size=batch_size, progress=progress, **how)
    if role is not None:
        raise InputError(f"role is of texts, and {model.name} classifies images; leave role out")
    single = isinstance(images, str | Path) and is_image(images)
    source = None if single else open_source(images)
    require(model, "class_logits", "diptych classify", model.name)
    if route:
        require(model, "route", "--route", model.name)
    set_named_classes(model, source, names, templates=templates, label=label)
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


def set_named_classes(
    model: Any,
    source: Source | None,
    names: Sequence[str] | str | Path | None,
    *,
    templates: Sequence[str] | None = None,
    label: str | None = None,
) -> None:
    """Set the classes of a model, as `name_source` does."""
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


def _classes(
    trained: Sequence[str],
    source: Source | None,
    names: Sequence[str] | str | Path | None,
    label: str | None,
) -> list[str]:
    """Return the requested classes, else those that the model was trained on, else those of the
    images."""
    if names is None and trained and label is None:
        return list(trained)
    if names is None and source is None:
        raise InputError(_MISSING)
    if names is None:
        assert source is not None
        try:
            chosen = named_label("classify", source, label)
        except InputError as error:
            raise InputError(f"{_MISSING} ({error})") from None
        return list(source.schema()[f"labels.{chosen}"].classes)
    return read_names(names)


_MISSING = "no class is named; give --names 'A,B,C', or a file with one a line"


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
    """Return the `k` most likely of `model.classes` for every clip or image `main`, in the source's
    order, and the number of unreadable images by reason.

    Probabilities are the softmax over all classes. With `route` the groups of prompts that an image
    was routed to are returned too. Raises InputError for a model without classes, or without such
    groups, and if no image can be read.
    """
    require(model, "class_logits", "naming images")
    if route:
        require(model, "route", "telling the groups of prompts")
    found: list[Named] = []
    bad = lost_samples(source)

    steps = Steps(progress, len(source))
    for pixels, facts in read_images(
        model,
        source,
        place_of,
        bad,
        images=clip_or_image,
        exact=exact,
        batch_size=batch_size,
        steps=steps,
    ):
        classes = likeliest(model.class_logits(pixels, batch_size=batch_size), model.classes, k)
        groups = model.route(pixels, batch_size=batch_size) if route else [()] * len(classes)
        found += [
            Named(*fact, *reported) for fact, *reported in zip(facts, classes, groups, strict=True)
        ]
    return found, bad


def name_texts(
    model: Any,
    source: Source,
    names: Sequence[str] | str | Path | None = None,
    *,
    templates: Sequence[str] | None = None,
    label: str | None = None,
    role: str | None = None,
    k: int = 3,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Classified:
    """Return the `k` likeliest classes of every text of `role` (caption, or the first) of a source.

    `names` are those of `name_source`. Without them the classes are those that the model was trained
    on, else the labels of the source (`evaluation.suites.text_labels.label_field`). A model that
    scores labels (`methods.abilities.MatchesLabels`) does so by their words, and its probabilities are
    of each label by itself where it was trained so. Any other model compares the text with the mean
    direction of the name in `templates`, by default the name alone; its probabilities are the softmax
    of scale · cosine.
    """
    role = role_of("classify", source, role)
    scores = matches_labels(model)
    sentences = isinstance(names, str | Path) and str(names).lower().endswith(".json")
    if scores and (sentences or templates is not None):
        raise InputError(
            f"{model.name} scores labels by their words; give names without sentences and templates"
        )
    if sentences and templates is not None:
        raise InputError(f"{names} has whole sentences; leave out --template")
    bad = lost_samples(source)
    rows = list(_texts_of(source, role, bad))
    if not rows:
        raise nothing_left(source, bad)
    texts = [text for _, text in rows]
    steps = Steps(progress, len(texts))
    how: dict[str, Any] = {"batch_size": batch_size, "steps": steps}
    if sentences:
        classes, directions = _directions(model, str(names))
        logits = embed_texts(model, texts, **how) @ directions.T
    elif scores:
        classes = check_names(_text_classes(model, source, names, label))
        logits = matched(model, texts, classes, **how)
    else:
        classes = check_names(_text_classes(model, source, names, label))
        specs = ("{}",) if templates is None else templates
        prompts = [template for spec in specs for template in banks(spec)]
        logits = cosines(model, texts, classes, prompts, **how)
    if scores and model.probabilities == "sigmoid":
        named = ranked(logits.sigmoid(), classes, k)
    else:
        scale = 1.0 if scores else float(model.encoder.logit_scale().detach())
        named = likeliest(scale * logits, classes, k)
    found = Classified(
        Named(key, "", best, text=text) for (key, text), best in zip(rows, named, strict=True)
    )
    found.classes = tuple(classes)
    found.bad = bad
    found.title = f"{source.name} by {model.name}"
    return found


def _text_classes(
    model: Any, source: Source, names: Sequence[str] | str | Path | None, label: str | None
) -> list[str]:
    """Return the requested classes, else those that the model was trained on, else the labels of
    the source."""
    if names is not None:
        return read_names(names)
    if label is None and getattr(model, "label_names", ()):
        return list(model.label_names)
    try:
        return label_names(source, label_field("classify", source, label))
    except InputError as error:
        raise InputError(f"{_MISSING} ({error})") from None


def _texts_of(source: Source, role: str, bad: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield key and text of each text of a role; samples without one are counted in `bad`."""
    for index in range(len(source)):
        try:
            sample = source[index]
        except BadSample as error:
            bad[error.reason] += 1
            continue
        own = [text for text in sample.captions(role) if text.strip()]
        bad.update(["no-caption"] * (not own))
        for text in own:
            yield sample.key, text


def ranked(shares: Tensor, names: Sequence[str], k: int) -> list[tuple[tuple[str, float], ...]]:
    """Return for each row of probabilities (N, C) the `k` most probable classes, the most probable
    first."""
    share, which = shares.float().cpu().topk(min(k, shares.shape[1]), dim=1)
    return [
        tuple((names[int(at)], float(value)) for at, value in zip(places, values, strict=True))
        for places, values in zip(which.tolist(), share.tolist(), strict=True)
    ]


def likeliest(logits: Tensor, names: Sequence[str], k: int) -> list[tuple[tuple[str, float], ...]]:
    """Return for each row of logits (N, C) the `k` most probable classes, the most probable first.

    >>> import torch
    >>> likeliest(torch.tensor([[0.0, 2.0, 1.0]]), ("cat", "dog", "owl"), 2)
    [(('dog', 0.665...), ('owl', 0.244...))]
    """
    return ranked(logits.float().softmax(1), names, k)


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
    names, vectors = _directions(model, path)
    model.set_classes(names, text_embeddings=vectors)


def _directions(model: Any, path: str) -> tuple[list[str], Tensor]:
    """Return the classes of a JSON file, and the mean direction of each one's sentences (C, E)."""
    sentences = read_lists(path)
    names = list(sentences)
    texts = [text for own in bank(path, names) for text in own]
    sizes = [len(own) for own in sentences.values()]
    return names, mean_directions(model.embed_texts(texts), sizes, model.shares)
