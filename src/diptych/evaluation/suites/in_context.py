"""Learning in context: what a model says of an image behind examples of others.

    words     of documents: each of K examples shows an image and defines a new word for what is in it.
              Then an image of one of these documents is shown again, and its word is to be found
    classes   of labelled images or clips: K examples, each with the name of its class, then one without

    chosen    the right word or name has the highest log-probability: the right word is followed by the
              rest of its sentence, and so are the others
    exact     (classes) the text that is written is the name

K words, or all classes, are chosen from; ties count as wrong. Words are tested where texts have the
attribute `defines` (as those of `scenes:pages=2`), unless a label is given.

Source: Tsimpoukelis et al. 2021 (words that are bound to images in context); Alayrac et al. 2022.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.data.sample import BadSample, EncodedImage, Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, clip_or_image, clips_of, read_images
from diptych.evaluation.protocol import data_of, describe, protocol_of
from diptych.evaluation.suites._features import opened
from diptych.evaluation.suites._labels import named_label
from diptych.evaluation.suites._shots import check_shots, drawn, number_of
from diptych.evaluation.suites.captions import correct
from diptych.metrics import TIE
from diptych.rng import generator

card = {
    "title": "Learning in context: new words, classes behind examples",
    "needs": ["images.main"],
    "abilities": ["preprocess", "generate", "log_prob", "few_shot"],
}

SHOTS = 4


def ready(
    model: Any,
    source: Source,
    *,
    label: str | None = None,
    shots: int | Sequence[int] = SHOTS,
    train: Source | str | None = None,
) -> None:
    """Raise InputError for a source without new words and labels, and for examples that do not fit."""
    count = number_of(shots, "in_context")
    if _tests_words(source, label):
        if train is not None or count < 2:
            raise InputError(
                "new words are defined by documents of the source itself, two at least; leave out --train (train=), "
                "and give --shots 2 or more"
            )
        return
    named_label("in_context", source, label)
    check_shots(model, "in_context", count, None if train is None else opened(train))


def in_context(
    model: Any,
    source: Source,
    *,
    label: str | None = None,
    shots: int | Sequence[int] = SHOTS,
    train: Source | str | None = None,
    seeds: Sequence[int] = (0,),
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `chosen`, of classes also `exact`, beside chance; means over `seeds`, which draw the
    examples.

    `shots` is the number K of examples; those of classes come from `train`, a source or its spec. Also
    returned: `n` images, `bad` samples by reason, and the protocol.
    """
    examples = None if train is None else opened(train)
    ready(model, source, label=label, shots=shots, train=examples)
    count = number_of(shots, "in_context")
    bad: Counter[str] = Counter()
    how: dict[str, Any] = {"exact": exact, "batch_size": batch_size, "progress": progress}
    if _tests_words(source, label):
        field = "document"
        found = _words(model, source, count, seeds, bad, **how)
    else:
        field = named_label("in_context", source, label)
        assert examples is not None, "`ready` refuses classes without examples"
        found = _classes(model, source, examples, field, count, seeds, bad, **how)
    options = [f"shots={count}", f"seeds={'+'.join(map(str, seeds))}", *clips_of(source)]
    if examples is not None:
        options.append(f"examples={data_of(examples)}")
    protocol = protocol_of(
        "in_context",
        source,
        model,
        exact=exact,
        field=field,
        rule="ties lose",
        options=tuple(options),
    )
    return found | {"bad": dict(bad)} | describe(protocol, model)


def _tests_words(source: Source, label: str | None) -> bool:
    return label is None and "texts.document" in source.schema()


@dataclass(frozen=True)
class Definition:
    """A new word: its key, the sentence that defines it, and what stands before and behind it in the
    first sentence of another page."""

    key: str
    word: str
    sentence: str
    before: str
    behind: str


def _pages(sample: Sample) -> Sequence[EncodedImage]:
    """The images of the page that defines a word and of the next one."""
    if not {"main", "page2"} <= sample.images.keys():
        raise BadSample("no-image", f"{sample.key} has no second image")
    return sample.images["main"], sample.images["page2"]


def _definition(sample: Sample) -> Definition:
    said = [text for text in sample.texts if text.role == "document"]
    first = next((text for text in said if "defines" in text.attrs), None)
    if first is None:
        raise BadSample("no-word", f"{sample.key} defines no word")
    word = str(first.attrs["defines"])
    for text in said:
        if text.attrs.get("image") == "page2" and word in text.text:
            before, _, behind = text.text.partition(word)
            return Definition(sample.key, word, first.text, before.strip(), behind)
    raise BadSample("no-word", f"{sample.key} does not use its word again")


def _words(
    model: Any,
    source: Source,
    count: int,
    seeds: Sequence[int],
    bad: Counter[str],
    *,
    exact: bool,
    batch_size: int,
    progress: Progress | None,
) -> dict[str, Any]:
    """Each document's word among those of `count` documents, its own included."""
    steps = Steps(progress, len(source) * (1 + len(seeds)))
    parts: list[Tensor] = []
    known: list[Definition] = []
    for pixels, kept in read_images(
        model,
        source,
        _definition,
        bad,
        images=_pages,
        exact=exact,
        batch_size=batch_size,
        steps=steps,
    ):
        parts.append(pixels.unflatten(0, (-1, 2)))
        known += kept
    pages = torch.cat(parts)
    right = []
    for seed in seeds:
        for at, own in enumerate(known):
            rng = generator(seed, "in_context", own.key)
            others = [n for n in rng.permutation(len(known)).tolist() if known[n].word != own.word]
            chosen = [at, *others[: count - 1]]
            if len(chosen) < count:
                raise InputError(
                    f"{source.name} has {len(chosen)} documents with words of their own, {count} are shown; "
                    "lower the shots"
                )
            order = [chosen[place] for place in rng.permutation(count).tolist()]
            behind = model.few_shot(pages[order, 0], [known[n].sentence for n in order])
            texts = [known[n].word + own.behind for n in order]
            scores = behind.log_prob(pages[[at] * count, 1], texts, [own.before] * count)
            right.append(_wins(scores[None], np.array([order.index(at)])).item())
            steps.add(1)
    return {"n": len(known), "chosen": float(np.mean(right)), "chance_chosen": 1 / count}


def _wins(scores: Tensor, right: np.ndarray) -> np.ndarray:
    """Whether the score of `right` (N,) is above all others of scores (N, C)."""
    others = scores.clone()
    rows = torch.arange(len(scores))
    others[rows, right] = -torch.inf
    return (scores[rows, right] > others.amax(1) + TIE).numpy()


def _classes(
    model: Any,
    source: Source,
    examples: Source,
    label: str,
    count: int,
    seeds: Sequence[int],
    bad: Counter[str],
    *,
    exact: bool,
    batch_size: int,
    progress: Progress | None,
) -> dict[str, Any]:
    """Each image's class, behind `count` images with the names of theirs."""
    names = source.schema()[f"labels.{label}"].classes
    known = examples.schema().get(f"labels.{label}")
    if known is None or known.classes != names:
        raise InputError(
            f"{examples.name} has not the classes of {source.name} as labels.{label}; give examples of the same classes"
        )

    def class_of(sample: Sample) -> int:
        value = int(sample.labels.get(label, -1))
        if not 0 <= value < len(names):
            raise BadSample("no-label", f"{sample.key} has no label {label!r}")
        return value

    steps = Steps(progress, len(source) * len(seeds))
    chosen: list[bool] = []
    written: list[bool] = []
    for seed in seeds:
        shown = drawn(model, examples, lambda sample: names[class_of(sample)], count, seed)
        behind = model.few_shot(*shown)
        for pixels, right in read_images(
            model,
            source,
            class_of,
            bad,
            images=clip_or_image,
            exact=exact,
            batch_size=batch_size,
            steps=steps,
        ):
            rows = pixels.repeat_interleave(len(names), 0)
            scores = behind.log_prob(rows, list(names) * len(pixels), batch_size=batch_size)
            chosen += _wins(scores.unflatten(0, (-1, len(names))), np.array(right)).tolist()
            texts = behind.generate(pixels, batch_size=batch_size)
            written += [correct(text, [names[at]]) for text, at in zip(texts, right, strict=True)]
    return {
        "n": len(chosen) // len(seeds),
        "chosen": float(np.mean(chosen)),
        "chance_chosen": 1 / len(names),
        "exact": float(np.mean(written)),
    }
