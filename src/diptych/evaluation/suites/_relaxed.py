"""Relaxed accuracy: answers about charts, whose numbers are read off and not exact.

A number is right within 5 % of the right one; any other answer has to be the same text in lower case.
"12%" is .12. Of 0 there is no share, so it is compared as a text. Source: Methani et al. 2020, as ChartQA
(Masry et al. 2022) uses it.
"""

import math
from collections import Counter
from collections.abc import Sequence

TOLERANCE = 0.05
"""The share of the right number by which a number may be off."""


def report(texts: Sequence[str], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return `relaxed`, the share of right answers, and `chance_relaxed`, that of the most common right
    answer to all questions."""
    common = Counter(
        form for answers in right for form in sorted({text.strip() for text in answers})
    )
    often = max(common, key=lambda form: (common[form], form))
    return {
        "relaxed": relaxed_accuracy(texts, right),
        "chance_relaxed": relaxed_accuracy([often] * len(right), right),
    }


def relaxed_accuracy(texts: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    """Return the share of answers that equal one of their right ones, 0 of none.

    >>> relaxed_accuracy(["10.4", "10.6", "Spain"], [["10"], ["10"], ["spain"]])
    0.6666666666666666
    """
    found = [
        any(equal(text, other) for other in answers)
        for text, answers in zip(texts, right, strict=True)
    ]
    return sum(found) / len(found) if found else 0.0


def equal(text: str, right: str, tolerance: float = TOLERANCE) -> bool:
    """Whether an answer is right.

    >>> equal("0.118", "12%"), equal("12", "12%"), equal("105", "100"), equal("106", "100")
    (True, False, True, False)
    """
    given = number(text)
    wanted = number(right)
    if given is None or not wanted:
        return text.strip().lower() == right.strip().lower()
    return abs(given - wanted) <= tolerance * abs(wanted)


def number(text: str) -> float | None:
    """Return the number that a text is, None if it is none.

    >>> number("-3.5"), number(" 4 % "), number("1,000"), number("nan")
    (-3.5, 0.04, None, None)
    """
    plain = text.strip()
    percent = plain.endswith("%")
    try:
        value = float(plain.removesuffix("%"))
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return value / 100 if percent else value
