"""The words of a register: those that texts in it use far more often than plain texts.

    R = { w : df_s(w) >= 0.01 N,   p_s(w) >= 10 p_c(w) }

p_s(w) and p_c(w) are the shares of a word among the words of the register's texts and of the plain
ones, df_s(w) the number of the N texts of the register that contain it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

ONE_IN = 100
"""A word of the register occurs in one of so many of its texts, at least."""
RATIO = 10
"""How many times as frequent it is as in plain texts, at least."""


def register_words(
    texts: Iterable[Sequence[str]], plain: Iterable[Sequence[str]]
) -> frozenset[str]:
    """Return the words of a register, of its texts and of plain ones, each as its words.

    >>> sorted(register_words([["my", "dear", "cat"], ["dear", "dogs"]], [["a", "cat"], ["dogs"]]))
    ['dear', 'my']
    """
    styled: Counter[str] = Counter()
    within: Counter[str] = Counter()
    count = 0
    for words in texts:
        styled.update(words)
        within.update(set(words))
        count += 1
    common: Counter[str] = Counter(word for words in plain for word in words)
    return frozenset(
        word
        for word, often in styled.items()
        if ONE_IN * within[word] >= count
        and often * common.total() >= RATIO * common[word] * styled.total()
    )


def register_share(texts: Iterable[Sequence[str]], register: frozenset[str]) -> float:
    """Return the share of the words of all texts that belong to a register, 0 if there are none.

    >>> register_share([["my", "cat"], ["a", "dog"]], frozenset({"my"}))
    0.25
    """
    words = [word for text in texts for word in text]
    return sum(word in register for word in words) / max(len(words), 1)
