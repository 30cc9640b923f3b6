"""ROUGE: overlap of generated texts with reference texts.

    rouge_n   F1 of the n-grams of a text and a reference, the best reference, the mean over texts
    rouge_l   F1 of their longest common subsequence of words

Words are runs of letters and digits in lower case, without stemming. Source: Lin 2004.
"""

import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")


def report(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return `rouge_1`, `rouge_2` and `rouge_l` of texts with one reference or more each.

    >>> report(["the cat sat"], [["the cat ran"]])["rouge_1"]
    0.6666...
    """
    rouge = {"rouge_1": 0.0, "rouge_2": 0.0, "rouge_l": 0.0}
    for text, right in zip(texts, references, strict=True):
        own = words(text)
        others = [words(each) for each in right]
        for n in (1, 2):
            rouge[f"rouge_{n}"] += max(_shared(own, other, n) for other in others)
        rouge["rouge_l"] += max(f1(_common(own, other), own, other) for other in others)
    return {name: total / len(texts) for name, total in rouge.items()}


def words(text: str) -> list[str]:
    """Return the words of a text.

    >>> words("A dog's 2 legs.")
    ['a', 'dog', 's', '2', 'legs']
    """
    return _WORD.findall(text.lower())


def grams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """Return the n-grams of a text with their numbers."""
    return Counter(tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1))


def f1(common: float, own: Sequence[object], other: Sequence[object]) -> float:
    """Return the harmonic mean of precision and recall."""
    return 2 * common / (len(own) + len(other)) if common else 0.0


def _shared(own: Sequence[str], other: Sequence[str], n: int) -> float:
    a = grams(own, n)
    b = grams(other, n)
    return f1((a & b).total(), list(a.elements()), list(b.elements()))


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, by bits (Hyyrö 2004): bit i of `same` is 0
    where a longest one of b[: i + 1] and the words so far is longer than that of b[:i]."""
    places: dict[str, int] = {}
    for at, word in enumerate(b):
        places[word] = places.get(word, 0) | 1 << at
    whole = (1 << len(b)) - 1
    same = whole
    for word in a:
        hit = same & places.get(word, 0)
        same = ((same + hit) | (same - hit)) & whole
    return len(b) - same.bit_count()
