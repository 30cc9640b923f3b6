"""METEOR of generated texts with its first two stages: words that are equal, then words of equal stem.

    P = m / c,   R = m / r,   F = 10 P R / (R + 9 P),   score = F · (1 - 0.5 (chunks / m)³)

m words of a text of c words are aligned with words of a reference of r words, each with one at most:
as many equal words as possible, then as many words of equal stem, and of such alignments one with the
fewest crossings, then the fewest chunks. A chunk is a run of words that are adjacent and in the same
order in both. A text has the score of its best reference; the mean over texts is reported.

METEOR's third stage, synonyms in WordNet, is left out, so that scores do not compare with those of
programs that have it. Stems are Porter's (1980), by snowballstemmer. Source: Banerjee and Lavie 2005.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from diptych.errors import InputError
from diptych.evaluation.suites._rouge import words

RECALL = 9.0
"""The weight of recall in F; that of precision is 1."""
GAMMA = 0.5
BETA = 3.0
BEAM = 256
"""The most partial alignments that are kept. More than this exist only for texts that repeat several
words many times."""

_State = tuple[
    int, int
]  # the words of the reference that are taken, as bits; the last one, -2 if none
_Cost = tuple[int, int, int]  # minus the equal words, crossings, chunks


def report(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return `meteor_stem` of texts with one reference or more each. Raises InputError without
    snowballstemmer.

    >>> report(["the dogs run"], [["the dog runs", "a cat"]])["meteor_stem"]
    0.98...
    """
    stem = stemmer()
    total = 0.0
    for text, right in zip(texts, references, strict=True):
        own = words(text)
        total += max((score(own, words(other), stem) for other in right), default=0.0)
    return {"meteor_stem": total / len(texts)}


def score(text: Sequence[str], reference: Sequence[str], stem: Callable[[str], str]) -> float:
    """Return METEOR of the words of a text and of a reference, 0 to 1.

    >>> score(["the", "cat", "sat"], ["the", "cat", "sat"], str)
    0.98...
    """
    matched, chunks = aligned(text, reference, stem)
    if not matched:
        return 0.0
    precision = matched / len(text)
    recall = matched / len(reference)
    mean = (1 + RECALL) * precision * recall / (recall + RECALL * precision)
    return mean * (1 - GAMMA * (chunks / matched) ** BETA)


def aligned(
    text: Sequence[str], reference: Sequence[str], stem: Callable[[str], str]
) -> tuple[int, int]:
    """Return how many words of a text are aligned with words of a reference, and in how many chunks.

    >>> aligned(["a", "b", "c"], ["c", "a", "b"], str)
    (3, 2)
    """
    stems = [stem(word) for word in text]
    others = [stem(word) for word in reference]
    there = Counter(others)
    spare = {root: max(0, count - there[root]) for root, count in Counter(stems).items()}
    seen: Counter[str] = Counter()
    states: dict[_State, _Cost] = {(0, -2): (0, 0, 0)}
    for word, root in zip(text, stems, strict=True):
        places = [at for at, other in enumerate(others) if other == root]
        mask = sum(1 << at for at in places)
        found: dict[_State, _Cost] = {}
        for (taken, last), (equal, crossings, chunks) in states.items():
            steps = [
                (
                    (taken | 1 << at, at),
                    (
                        equal - (reference[at] == word),
                        crossings + (taken >> at).bit_count(),
                        chunks + (at != last + 1),
                    ),
                )
                for at in places
                if not taken >> at & 1
            ]
            if seen[root] - (taken & mask).bit_count() < spare[root]:
                steps.append(((taken, -2), (equal, crossings, chunks)))
            for state, cost in steps:
                found[state] = min(cost, found.get(state, cost))
        seen[root] += 1
        best = sorted(found, key=lambda state: (found[state], state))[:BEAM]
        states = {state: found[state] for state in best}
    taken, last = min(states, key=lambda state: states[state])
    return taken.bit_count(), states[taken, last][2]


def stemmer() -> Callable[[str], str]:
    """Return the function for the stem of a word. Raises InputError without snowballstemmer."""
    try:
        import snowballstemmer
    except ImportError:
        raise InputError(
            "METEOR compares stems of words, which needs snowballstemmer; install it with: pip install 'diptych[text]'"
        ) from None
    return snowballstemmer.stemmer("porter").stemWord
