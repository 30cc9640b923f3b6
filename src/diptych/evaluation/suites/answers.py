"""Answers to questions about images: exact match, consensus of people, or multiple choice.

    exact         the answer equals one of the right ones
    vqa           mean over the people who answered of min(1, n / 3), n of the others having given that answer
    anls          how near the answer is to the nearest right one in letters (`_anls`), where it is asked for
    relaxed       the answer is the right text, or a number within 5 % of it (`_relaxed`), where it is asked for
    chosen        the right one of a question's choices has the highest score
    blind_NAME    the same without images
    dependency    exact or chosen, minus the same without images
    by_kind       exact or chosen of each kind of question, where questions have the attribute `kind`

Answers are compared in lower case without punctuation and articles, with number words as digits.
`vqa` covers questions with at least four answers by people: with fewer it cannot reach 1. Chance is
always giving the most common answer, or choosing at random; ties count as wrong.

A question's answers are the texts of role answer that follow it; if all questions come first, the
answers belong to them in order. Its choices are the attribute `choices` of the question, or the
sample's texts of role choice.

Sources: Antol et al. 2015 (VQA); Rajpurkar et al. 2016 (exact match and its normal form).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.data.questions import answered
from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import (
    Progress,
    Steps,
    as_vectors,
    first_images,
    images_with_edits,
    read_images,
)
from diptych.evaluation.protocol import data_of, describe, protocol_of, split_of
from diptych.evaluation.suites import _anls, _relaxed
from diptych.evaluation.suites._features import opened
from diptych.linear import classifier
from diptych.methods.abilities import require
from diptych.metrics import TIE

card = {
    "title": "Answers to questions: exact, VQA accuracy, multiple choice",
    "needs": ["images.main", "texts.question", "texts.answer"],
    "abilities": [],  # depends on `by`
}

By = Literal["generate", "classifier", "log_prob", "match", "embed"]
_ABILITIES = {
    "generate": ("preprocess", "generate"),
    "classifier": ("preprocess", "fuse"),
    "log_prob": ("preprocess", "log_prob"),
    "match": ("preprocess", "match"),
    "embed": ("embed_images", "embed_texts"),
}
PEOPLE = 4
"""The number of answers that a question needs for `vqa`."""
_OPEN = ("generate", "classifier")
"""The ways that give a text, and need no choices."""
_BLIND = ("generate", "log_prob")
"""The ways in which a model may be asked without an image."""

_ARTICLES = {"a", "an", "the"}
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_DIGITS)}


@dataclass(frozen=True)
class Question:
    """A question, its correct answers, its choices if there are any, and its kind if it has one."""

    text: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    kind: str = ""


def ready(
    model: Any,
    source: Source,
    *,
    by: By = "generate",
    train: Source | str | None = None,
    blind: bool = False,
    anls: bool = False,
    relaxed: bool = False,
) -> None:
    """Raise InputError for a model that cannot answer in the way `by`, or not without images, and for
    `anls` and `relaxed` of choices."""
    if by not in _ABILITIES:
        raise unknown("way to answer", by, _ABILITIES)
    if anls and by not in _OPEN:
        raise InputError(
            f"ANLS compares letters of written answers, and by={by} chooses one; leave out --anls, or answer by "
            "generate"
        )
    if relaxed and by not in _OPEN:
        raise InputError(
            f"relaxed accuracy compares the numbers of written answers, and by={by} chooses one; leave out --relaxed, "
            "or answer by generate"
        )
    if anls:
        _anls.edits()  # raises without its library
    for ability in _ABILITIES[by]:
        require(model, ability, f"answers by {by}")
    if blind and by not in _BLIND:
        raise InputError(
            f"answers by {by} compare images; leave out --blind (blind=), or choose by=generate or log_prob"
        )
    if blind and not getattr(model, "asked_alone", False):
        name = getattr(model, "name", "this model")
        raise InputError(
            f"{name} reads an image with every question; leave out --blind (blind=), or name a model whose image is a "
            "prefix of a language model"
        )
    if (by == "classifier") != (train is not None):
        raise InputError(
            "a classifier of answers learns from questions with answers; name a source of them with --train (train=)"
            if train is None
            else f"answers by {by} learn nothing; leave out --train (train=), or choose by=classifier"
        )


def answers(
    model: Any,
    source: Source,
    *,
    by: By = "generate",
    train: Source | str | None = None,
    blind: bool = False,
    anls: bool = False,
    relaxed: bool = False,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `exact` and `vqa` of generated or classified answers, or `chosen` if the model scores the choices of
    each question.

    `by` is generate, a text after the question; classifier, the likeliest of the answers to the
    questions of `train`, a source or its spec, by logistic regression on the features of image and
    question (`fuse`); log_prob, the log-probability of each choice after
    it; match or embed, the score of the image with question and choice as one text. `paired`: if an
    edit of the sample (its twin) has the same question with another answer, the share of such pairs
    with both answers correct. With `blind` the questions are also asked without images, with `anls`
    written answers are also compared by letters, with `relaxed` their numbers with a tolerance. `by_kind`
    has the accuracies of each kind of question, if there are kinds. Also returned: `n` questions, the
    chance values, `bad` samples by reason, and the protocol.
    """
    ready(model, source, by=by, train=train, blind=blind, anls=anls, relaxed=relaxed)
    learnt = None if train is None else opened(train)
    steps = Steps(progress, len(source) + (0 if learnt is None else len(learnt)))
    how: dict[str, Any] = {"exact": exact, "batch_size": batch_size, "steps": steps}
    given, asked, pairs, bad = replies(model, source, by, **how)
    options = [f"by={by}"]
    if learnt is not None:
        given = _classified(given, *replies(model, learnt, by, **how)[:2])
        options.append(f"train={data_of(learnt)} {split_of(learnt.keys())}")
    right = np.array(
        [correct(answer, question) for answer, (question, _) in zip(given, asked, strict=True)]
    )
    own = np.array([is_own for _, is_own in asked])
    mine = [question for question, is_own in asked if is_own]
    results = _written(given, asked, anls, relaxed) if by in _OPEN else _chosen(right[own], mine)
    if pairs:
        results["paired"] = float(np.mean([right[a] and right[b] for a, b in pairs]))
        results["chance_paired"] = (
            0.0
            if by in _OPEN
            else float(np.mean([_luck(asked[a][0]) * _luck(asked[b][0]) for a, b in pairs]))
        )
    name = "exact" if by in _OPEN else "chosen"
    hits = {name: right[own]}
    if blind:
        options.append("blind")
        hits[f"blind_{name}"] = without_images(model, mine, by, batch_size)
        results[f"blind_{name}"] = float(hits[f"blind_{name}"].mean())
        results["dependency"] = results[name] - results[f"blind_{name}"]
    results |= _by_kind(mine, hits)
    protocol = protocol_of(
        "answers",
        source,
        model,
        exact=exact,
        field="answer",
        rule="lower case, no punctuation, no articles, numbers as digits; ties lose",
        options=tuple(options),
    )
    return {"n": int(own.sum())} | results | {"bad": dict(bad)} | describe(protocol, model)


def about_images(
    model: Any,
    source: Source,
    facts: Callable[[Sample], Sequence[Question]],
    bad: Counter[str],
    *,
    by: By,
    exact: bool,
    batch_size: int,
    steps: Steps,
) -> Iterator[tuple[Question, Any]]:
    """Yield the questions `facts(sample)` of each sample with their answers, texts or scores of the
    choices; edits are not asked."""
    count = getattr(model, "images_read", 1)
    for pixels, kept in read_images(
        model,
        source,
        facts,
        bad,
        images=partial(first_images, count=count),
        exact=exact,
        batch_size=batch_size,
        steps=steps,
    ):
        asked = [(at, question) for at, found in enumerate(kept) for question in found]
        given = _given(model, pixels, asked, by, batch_size)
        yield from zip([question for _, question in asked], given, strict=True)


def without_images(
    model: Any, asked: Sequence[Question], by: By, batch_size: int = 64
) -> np.ndarray:
    """Return which questions (n,) a model answers correctly without an image."""
    given = _given(model, None, [(0, question) for question in asked], by, batch_size)
    return np.array([correct(answer, each) for answer, each in zip(given, asked, strict=True)])


def replies(
    model: Any, source: Source, by: By, *, exact: bool, batch_size: int, steps: Steps
) -> tuple[list[Any], list[tuple[Question, bool]], list[tuple[int, int]], Counter[str]]:
    """Return the answers of a model, texts, scores of the choices or features; their questions, and whether
    each is of a sample or of its edit; pairs of questions of twins; and why samples were left
    out."""
    bad: Counter[str] = Counter()
    asked: list[
        tuple[Question, bool]
    ] = []  # all questions in order, and whether they are of a sample or of its edit
    pairs: list[tuple[int, int]] = []
    given: list[Any] = []  # a text, scores of the choices, or features, for each question

    def facts(sample: Sample) -> list[list[Question]]:
        """The questions of the sample and of each edit that has an image."""
        mine = questions(sample, by not in _OPEN)
        return [
            mine,
            *(twins(edit, mine, by not in _OPEN) for edit in sample.edits if "main" in edit.images),
        ]

    for pixels, kept in read_images(
        model,
        source,
        facts,
        bad,
        images=partial(images_with_edits, count=getattr(model, "images_read", 1)),
        exact=exact,
        batch_size=batch_size,
        steps=steps,
    ):
        image = 0
        now = []
        for of_images in kept:
            first = len(asked)
            for at, found in enumerate(of_images):
                for question in found:
                    if at:
                        own = next(
                            i for i, each in enumerate(of_images[0]) if each.text == question.text
                        )
                        pairs.append((first + own, len(asked)))
                    now.append((image, question))
                    asked.append((question, at == 0))
                image += 1
        given += _given(model, pixels, now, by, batch_size)
    return given, asked, pairs, bad


def _classified(
    features: Sequence[np.ndarray],
    of_train: Sequence[np.ndarray],
    asked: Sequence[tuple[Question, bool]],
) -> list[str]:
    """Return the likeliest answers by a classifier of the features of the questions that were
    `asked`, whose classes are the most common answer of each."""
    right = [
        Counter(map(normal_answer, question.answers)).most_common(1)[0][0] for question, _ in asked
    ]
    line, _ = classifier(np.stack(of_train), np.array(right))
    return [str(each) for each in line.predict(np.stack(features))]


def questions(sample: Sample, choose: bool = False) -> list[Question]:
    """Return the questions of a sample with their answers; with `choose` those with both right and
    wrong choices.

    Raises BadSample if there are none, or if answers belong to no question.
    """
    common = sample.captions("choice")
    made = [
        Question(
            text.text,
            tuple(right),
            tuple(text.attrs.get("choices", common)),
            str(text.attrs.get("kind", "")),
        )
        for text, right in answered(sample)
    ]
    if choose:
        made = [each for each in made if 0 < _rightness(each).sum() < len(each.choices)]
    if not made:
        raise BadSample(
            "no-question",
            f"{sample.key} has no question" + " with right and wrong choices" * choose,
        )
    return made


def vqa_accuracy(given: str, right: Sequence[str]) -> float:
    """Return VQA's consensus: the mean, over people left out one at a time, of min(1, n / 3), where
    n of the others agree.

    >>> round(vqa_accuracy("Two", ["2", "two", "three", "3"]), 4)  # n is 1 where one of the two is left out, else 2
    0.5
    """
    same = np.array([normal_answer(each) == normal_answer(given) for each in right])
    return float(np.minimum(1, (same.sum() - same) / 3).mean())


def normal_answer(text: str) -> str:
    """Return the normal form in which answers are compared.

    >>> normal_answer("The T-shirt's two dogs, 1.5 m.")
    't shirts 2 dogs 1.5 m'
    """
    plain = re.sub(r"['’]", "", text.lower())
    words = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w\s.]", " ", plain).split()
    # an answer that is the letter A is no article
    kept = [word for word in words if word not in _ARTICLES] or words
    return " ".join(_NUMBERS.get(word, word) for word in kept)


def twins(edit: Sample, mine: Sequence[Question], choose: bool = False) -> list[Question]:
    """Return the edit's questions that the sample has too, with another answer."""
    other = {each.text: {normal_answer(text) for text in each.answers} for each in mine}
    try:
        found = questions(edit, choose)
    except BadSample:  # it may have none
        return []
    return [
        each
        for each in found
        if each.text in other
        and not other[each.text] & {normal_answer(text) for text in each.answers}
    ]


def _given(
    model: Any,
    pixels: Tensor | None,
    asked: Sequence[tuple[int, Question]],
    by: By,
    batch_size: int,
) -> list[Any]:
    """Return the answers to questions about images (by number), or without them: texts, scores (n,) of
    the choices, or features (D,) for a classifier."""

    def of(numbers: Sequence[int]) -> Tensor | None:
        return None if pixels is None else pixels[list(numbers)]

    if by == "classifier":
        images, texts = zip(*((at, each.text) for at, each in asked), strict=True)
        return [*model.fuse(of(images), list(texts), batch_size=batch_size).numpy()]
    if by == "generate":
        return [
            text
            for start in range(0, len(asked), batch_size)
            for part in [asked[start : start + batch_size]]
            for text in model.generate(
                of([at for at, _ in part]),
                [each.text for _, each in part],
                batch_size=batch_size,
            )
        ]
    rows = [(at, each.text, choice) for at, each in asked for choice in each.choices]
    vectors = (
        as_vectors(model.embed_images(pixels, batch_size=batch_size)) if by == "embed" else None
    )
    scores = []
    for start in range(0, len(rows), batch_size):
        images, prompts, choices = zip(*rows[start : start + batch_size], strict=True)
        joined = [f"{prompt} {choice}" for prompt, choice in zip(prompts, choices, strict=True)]
        if by == "log_prob":
            found = model.log_prob(of(images), list(choices), list(prompts), batch_size=batch_size)
        elif by == "match":
            found = model.match(of(images), joined, batch_size=batch_size)
        else:
            assert vectors is not None
            found = (vectors[list(images)] * as_vectors(model.embed_texts(joined))).sum(1)
        scores.append(as_vectors(found))
    sizes = [len(each.choices) for _, each in asked]
    return [part.numpy() for part in torch.cat(scores).split(sizes)] if scores else []


def correct(given: Any, question: Question) -> bool:
    """Whether a generated answer is one of the correct ones, or a correct choice scores above all
    wrong ones."""
    if isinstance(given, str):
        return normal_answer(given) in {normal_answer(each) for each in question.answers}
    right = _rightness(question)
    return bool(given[right].max() > given[~right].max() + TIE * np.abs(given).max())


def _rightness(question: Question) -> np.ndarray:
    """Which choices are right, (n,) bool."""
    answers = {normal_answer(each) for each in question.answers}
    return np.array([normal_answer(each) in answers for each in question.choices], dtype=bool)


def _luck(question: Question) -> float:
    """Return the probability of choosing correctly at random."""
    return float(_rightness(question).mean())


def _written(
    given: Sequence[str], asked: Sequence[tuple[Question, bool]], anls: bool, relaxed: bool
) -> dict[str, Any]:
    own = [
        (text, question.answers)
        for text, (question, mine) in zip(given, asked, strict=True)
        if mine
    ]
    often, share = _most_common([right for _, right in own])
    exact = [normal_answer(text) in {normal_answer(each) for each in right} for text, right in own]
    found = {"exact": float(np.mean(exact)), "chance_exact": share}
    people = [(text, right) for text, right in own if len(right) >= PEOPLE]
    if people:
        found["vqa"] = float(np.mean([vqa_accuracy(text, right) for text, right in people]))
        found["chance_vqa"] = float(np.mean([vqa_accuracy(often, right) for _, right in people]))
    if anls:
        found |= _anls.report([text for text, _ in own], [right for _, right in own])
    if relaxed:
        found |= _relaxed.report([text for text, _ in own], [right for _, right in own])
    return found


def _most_common(right: Sequence[Sequence[str]]) -> tuple[str, float]:
    """The answer to most of some questions, in its normal form, and the share of these."""
    common = Counter(form for each in right for form in sorted({*map(normal_answer, each)}))
    often = max(common, key=lambda form: (common[form], form))
    return often, common[often] / len(right)


def _chosen(right: np.ndarray, asked: Sequence[Question]) -> dict[str, Any]:
    return {
        "chosen": float(right.mean()),
        "chance_chosen": float(np.mean([_luck(each) for each in asked])),
    }


def _by_kind(asked: Sequence[Question], hits: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The means of hits (n,) by kind of question, beside chance, under `by_kind`; nothing if no question
    has a kind."""
    places: dict[str, list[int]] = {}
    for at, question in enumerate(asked):
        if question.kind:
            places.setdefault(question.kind, []).append(at)
    rows = {}
    for kind, mine in places.items():
        ours = [asked[at] for at in mine]
        luck = (
            np.mean([_luck(each) for each in ours])
            if "chosen" in hits
            else _most_common([each.answers for each in ours])[1]
        )
        rows[kind] = {
            "n": len(mine),
            **{name: float(each[mine].mean()) for name, each in hits.items()},
            f"chance_{next(iter(hits))}": float(luck),
        }
    return {"by_kind": rows} if rows else {}
