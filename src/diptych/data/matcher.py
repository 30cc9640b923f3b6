"""Names in texts: which of them a text mentions, and texts in which another phrase takes a name's
place."""

import re
from collections.abc import Sequence
from functools import lru_cache

_DETERMINER = (
    r"(?:a|an|the|one|two|three|four|some|this|that|these|those|his|her|its|their|my|our|your)"
)
_OTHER = (
    r"(?!(?:and|or|of|in|on|at|by|with|near|to|from|for|under|over|behind|beside|above|below|into|onto|between|"
    r"is|are|was|were|has|have|who|which|that|while|as)\b)"
)
_MODIFIERS = 3


class Matcher:
    """Finds names in texts, as whole words and in any case, singular or plural.

    Of names that overlap, the longest counts.

    >>> Matcher(["cat", "hot dog", "dog"]).find("Two cats and a caterpillar beside a hot dog")
    ['cat', 'hot dog']
    """

    def __init__(self, names: Sequence[str], *, plural: bool = True):
        self.names = tuple(dict.fromkeys(name.strip().lower() for name in names if name.strip()))
        longest = sorted(self.names, key=len, reverse=True)
        forms = "|".join(f"({_forms(name, plural)})" for name in longest)
        self._pattern = re.compile(rf"\b(?:{forms})\b", re.IGNORECASE) if forms else None
        self._ordered = longest

    def find(self, text: str) -> list[str]:
        """The names in a text, each once, in the order in which they occur."""
        if self._pattern is None:
            return []
        found = (self._ordered[match.lastindex - 1] for match in self._pattern.finditer(text))  # type: ignore[operator]
        return list(dict.fromkeys(found))


def replaced(text: str, name: str, by: str) -> str | None:
    """The text with the smallest noun phrase that contains `name` replaced by `by`; None if the
    text does not mention it.

    A noun phrase here is the name, singular or plural, with up to three words before it that are no
    preposition, conjunction or verb of a short list, and a determiner before them. A phrase without
    a determiner is the name alone [choice: a parser finds more].

    >>> replaced("a dog and a big brown cat near the tree", "cat", "a red fox")
    'a dog and a red fox near the tree'
    >>> replaced("a caterpillar", "cat", "a red fox") is None
    True
    """
    pattern = _phrase(name.strip().lower())
    return pattern.sub(lambda _: by, text, count=1) if pattern.search(text) else None


@lru_cache(maxsize=4096)
def _phrase(name: str) -> re.Pattern[str]:
    modifiers = rf"(?:{_OTHER}[\w-]+\s+){{0,{_MODIFIERS}}}?"
    return re.compile(
        rf"(?:\b{_DETERMINER}\s+{modifiers})?\b(?:{_forms(name, True)})\b", re.IGNORECASE
    )


def _forms(name: str, plural: bool) -> str:
    """A pattern of the forms of a name, whose words may be apart by any space or hyphen."""
    words = [re.escape(word) for word in re.split(r"[\s-]+", name)]
    stem = r"[\s-]+".join(words)
    if not plural:
        return stem
    if name.endswith("y") and len(name) > 1 and name[-2] not in "aeiou":
        return rf"{stem[:-1]}(?:y|ies)"
    return rf"{stem}(?:s|es)?"
