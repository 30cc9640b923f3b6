"""Questions of a sample with their answers, and which answers count where people disagree."""

from collections import Counter
from collections.abc import Sequence

from diptych.data.sample import BadSample, Sample, Text

AGREED = 3
"""People who give an answer that is not the most frequent one, from which on it counts as right."""


def answered(sample: Sample) -> list[tuple[Text, list[str]]]:
    """The questions of a sample, each with its answers: the texts of role answer that follow it, or
    where all questions come first, the answers in order. Raises BadSample("unpaired") where answers
    belong to no question.

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


def agreed(answers: Sequence[str]) -> list[str]:
    """The answers to learn of those that several people gave, the most frequent first: it, what is
    as frequent, and whatever three gave or more. In lower case.

    Source: Gu et al. 2023 (CLOSE).

    >>> agreed(["two"] * 5 + ["Three"] * 3 + ["four"] * 2), agreed(["red", "blue"])
    (['two', 'three'], ['red', 'blue'])
    """
    count = Counter(answer.strip().lower() for answer in answers)
    most = max(count.values())
    return [answer for answer, times in count.most_common() if times == most or times >= AGREED]
