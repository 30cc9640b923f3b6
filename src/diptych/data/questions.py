"""Questions of a sample with their answers, and the answers that count if people disagree."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from diptych.data.sample import BadSample, Sample, Text

AGREED = 3
"""An answer that is not the most frequent one counts if at least this many people give it."""


def answered(sample: Sample) -> list[tuple[Text, list[str]]]:
    """The questions of a sample, each with its answers.

    The answers are the texts of role answer that follow a question; if all questions come first,
    one answer per question in order. Raises BadSample("unpaired") if questions and answers cannot
    be matched.

    >>> texts = [Text(text=text, role=role) for text, role in (("how many?", "question"), ("two", "answer"))]
    >>> [(question.text, answers) for question, answers in answered(Sample(key="0", source="", texts=texts))]
    [('how many?', ['two'])]
    """
    questions = [text for text in sample.texts if text.role == "question"]
    answers: list[list[str]] = []
    for text in sample.texts:
        if text.role == "question":
            answers.append([])
        elif text.role == "answer" and answers:
            answers[-1].append(text.text)
    if not all(answers):
        found = sample.captions("answer")
        if len(found) != len(questions):
            raise BadSample(
                "unpaired", f"{sample.key} has {len(questions)} questions and {len(found)} answers"
            )
        answers = [[text] for text in found]
    return list(zip(questions, answers, strict=True))


def asked_of(sample: Sample, rng: np.random.Generator, train: bool) -> tuple[str, str]:
    """A question of a sample and an answer to it, random ones in training, else the first. An answer is
    drawn as often as people gave it.

    Raises BadSample("no-question") if there are none.
    """
    pairs = [(question.text, answers) for question, answers in answered(sample) if answers]
    if not pairs:
        raise BadSample("no-question", f"{sample.key} has no question with an answer")
    question, answers = pairs[int(rng.integers(len(pairs))) if train else 0]
    return question, answers[int(rng.integers(len(answers))) if train else 0]


def agreed(answers: Sequence[str]) -> list[str]:
    """The answers to train on, of those that several people gave, in lower case, the most frequent
    first.

    These are the most frequent answer, those as frequent, and those that at least three people
    gave.

    Source: Gu et al. 2023 (CLOSE).

    >>> agreed(["two"] * 5 + ["Three"] * 3 + ["four"] * 2), agreed(["red", "blue"])
    (['two', 'three'], ['red', 'blue'])
    """
    count = Counter(answer.strip().lower() for answer in answers)
    most = max(count.values())
    return [answer for answer, times in count.most_common() if times == most or times >= AGREED]
