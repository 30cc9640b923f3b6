"""Hallucination: yes/no questions about what an image shows, and how often yes is wrong.

    hallucination   share of the questions whose answer is no that are answered yes
    missed          share of those whose answer is yes that are answered otherwise
    accuracy        share of right answers; precision, recall and f1 are those of yes
    yes             share of answers that are yes

A generated answer is its first word; one that is neither yes nor no is wrong. By log_prob it is the
likelier of the two words, and a tie is wrong. Questions with other answers are left out. Chance is
always yes.

Source: Li et al. 2023 (POPE), where images are asked for objects that they do not show.
"""

from collections import Counter
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import unknown
from diptych.evaluation.embed import Progress, Steps
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites import answers as answering
from diptych.evaluation.suites.answers import Question, normal_answer
from diptych.methods.abilities import require
from diptych.metrics import TIE

card = {
    "title": "Yes/no questions, and how often yes is wrong",
    "needs": ["images.main", "texts.question", "texts.answer"],
    "abilities": [],  # depends on `by`
}

By = Literal["generate", "log_prob"]
_WORDS = ("yes", "no")


def ready(model: Any, source: Source, *, by: By = "generate") -> None:
    """Raise InputError for a model that cannot answer in the way `by`."""
    if by not in ("generate", "log_prob"):
        raise unknown("way to answer yes or no", by, ("generate", "log_prob"))
    for ability in ("preprocess", by):
        require(model, ability, f"yes or no by {by}")


def hallucination(
    model: Any,
    source: Source,
    *,
    by: By = "generate",
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the measures above over the yes/no questions of a source.

    Measures of questions that there are none of are left out. Also returned: `n` questions, `bad` samples
    by reason (`no-yes-or-no`: samples without such a question), and the protocol. Raises InputError if
    there is none.
    """
    ready(model, source, by=by)
    steps = Steps(progress, len(source))
    bad: Counter[str] = Counter()
    told: list[str] = []
    right: list[bool] = []

    def asked(sample: Sample) -> list[Question]:
        found = [
            replace(each, choices=_WORDS) for each in answering.questions(sample) if yes_or_no(each)
        ]
        if not found:
            raise BadSample("no-yes-or-no", sample.key)
        return found

    for question, given in answering.about_images(
        model, source, asked, bad, by=by, exact=exact, batch_size=batch_size, steps=steps
    ):
        told.append(said(given))
        right.append(yes_or_no(question) == "yes")
    protocol = protocol_of(
        "hallucination",
        source,
        model,
        exact=exact,
        field="answer",
        rule="first word, lower case; neither yes nor no is wrong; ties lose",
        options=(f"by={by}",),
    )
    found = report(np.array(told) == "yes", np.array(told) == "no", np.array(right))
    return {"n": len(right)} | found | {"bad": dict(bad)} | describe(protocol, model)


def yes_or_no(question: Question) -> str:
    """The answer to a question that is yes or no, else "".

    >>> yes_or_no(Question("is there a cat?", ("Yes.", "yes"))), yes_or_no(Question("how many?", ("two",)))
    ('yes', '')
    """
    forms = {normal_answer(answer) for answer in question.answers}
    return forms.pop() if len(forms) == 1 and forms <= set(_WORDS) else ""


def said(given: Any) -> str:
    """The word of a generated answer, or of the scores of yes and no; "" if it is neither.

    >>> said("Yes, there is."), said("A cat"), said(np.array([-2.0, -1.0])), said(np.array([-1.0, -1.0]))
    ('yes', '', 'no', '')
    """
    if isinstance(given, str):
        word, *_ = [*normal_answer(given).split(), ""]
        return word if word in _WORDS else ""
    yes, no = (float(score) for score in given)
    if abs(yes - no) <= TIE * max(abs(yes), abs(no)):
        return ""
    return "yes" if yes > no else "no"


def report(yes: np.ndarray, no: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """Return the measures of answers that are yes (n,) or no (n,), where `right` (n,) says yes is.

    >>> found = report(*np.array([[1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]], bool))
    >>> found["hallucination"], found["missed"], found["accuracy"], found["yes"]
    (0.5, 0.5, 0.5, 0.5)
    """
    true = int((yes & right).sum())
    found = {
        "accuracy": float(((yes & right) | (no & ~right)).mean()),
        "chance_accuracy": float(right.mean()),
        "yes": float(yes.mean()),
    }
    if not right.all():
        found |= {"hallucination": float(yes[~right].mean()), "chance_hallucination": 1.0}
    if right.any():
        found |= {
            "missed": float(1 - yes[right].mean()),
            "chance_missed": 0.0,
            "precision": true / max(1, int(yes.sum())),
            "chance_precision": float(right.mean()),
            "recall": true / int(right.sum()),
            "chance_recall": 1.0,
            "f1": 2 * true / (int(yes.sum()) + int(right.sum())),
            "chance_f1": float(2 * right.mean() / (1 + right.mean())),
        }
    return found
