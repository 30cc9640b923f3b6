"""ANLS: how near written answers are to the right ones, in letters.

    s(a, b) = 1 - d(a, b) / max(|a|, |b|),   0 where d / max is .5 or more
    ANLS = mean over questions of the best s over its right answers

d is the number of letters to insert, delete or replace (Levenshtein 1966). Texts are compared in lower
case, with single spaces. Source: Biten et al. 2019 (scene text VQA), as DocVQA and InfographicVQA use it.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from diptych.errors import InputError

LIMIT = 0.5
"""The share of letters to edit from which an answer counts as wrong."""


def report(texts: Sequence[str], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return `anls` of answers, and `chance_anls`, that of the most common right answer to all questions.

    Raises InputError without rapidfuzz.
    """
    common = Counter(form for answers in right for form in sorted(set(map(plain, answers))))
    often = max(common, key=lambda form: (common[form], form))
    return {"anls": anls(texts, right), "chance_anls": anls([often] * len(right), right)}


def anls(texts: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    """Return the mean of `nearness` over answers with the right ones of each, 0 of none.

    Raises InputError without rapidfuzz.

    >>> anls(["54 mm", "18 inches"], [["54mm"], ["54mm", "54 millimetres"]])
    0.4
    """
    found = [nearness(text, answers) for text, answers in zip(texts, right, strict=True)]
    return sum(found) / len(found) if found else 0.0


def nearness(text: str, right: Sequence[str], limit: float = LIMIT) -> float:
    """Return s of an answer and the nearest of the right ones, in 0 … 1.

    >>> nearness("54 MM", ["54mm"]), nearness("ab", ["ac"])
    (0.8, 0.0)
    """
    distance = edits()
    near = 0.0
    for other in right:
        apart = distance(plain(text), plain(other))
        if apart < limit:
            near = max(near, 1 - apart)
    return near


def plain(text: str) -> str:
    """Return the form in which letters are compared.

    >>> plain("  54  MM ")
    '54 mm'
    """
    return " ".join(text.lower().split())


def edits() -> Callable[[str, str], float]:
    """Return the function for the edits between two texts over the length of the longer one, 0 of two
    empty texts. Raises InputError without rapidfuzz."""
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        raise InputError(
            "ANLS counts edits between texts, which needs rapidfuzz; install it with: pip install 'diptych[text]'"
        ) from None
    return Levenshtein.normalized_distance
