"""Questions of a sample with their answers, and the answers that count if people disagree."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from diptych.data.sample import BadSample, Sample, Text

AGREED = 3
"""An answer that is not the most frequent one counts if at least this many people give it."""


def answered(sample: Sample) -> list[tuple[Text, list[str]]]:
    """The questions of a sample, each with its answers.

    The answers are the texts of role answer that follow a question; of as many that follow several
    questions, each has one in order. Raises BadSample("unpaired") if questions and answers cannot be
    matched.

    >>> texts = [Text(text=text, role=role) for text, role in (("how many?", "question"), ("two", "answer"))]
    >>> [(question.text, answers) for question, answers in answered(Sample(key="0", source="", texts=texts))]
    [('how many?', ['two'])]
    """
    asked: list[tuple[list[Text], list[str]]] = []  # questions in a row, and what follows them
    for text in sample.texts:
        if text.role == "question":
            if not asked or asked[-1][1]:
                asked.append(([], []))
            asked[-1][0].append(text)
        elif text.role == "answer" and asked:
            asked[-1][1].append(text.text)
    pairs = []
    for questions, answers in asked:
        if len(questions) == 1 and answers:
            pairs.append((questions[0], answers))
        elif len(questions) == len(answers):
            pairs += [(each, [text]) for each, text in zip(questions, answers, strict=True)]
        else:
            raise BadSample(
                "unpaired",
                f"{sample.key} has {len(answers)} answers to {len(questions)} questions in a row",
            )
    return pairs


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
