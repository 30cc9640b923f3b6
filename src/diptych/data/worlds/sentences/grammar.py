"""From a meaning to a sentence.

A template is a row of words. `A` and `O` stand for agent and object with their attributes, `V`,
`Ving` and `Ven` for forms of the action, `@` for place, time and recipient, `yes|no` for a word of
the affirmed and one of the denied sentence. A sentence is a template and, before and after it,
phrases that say nothing.

Its length in words is drawn first, from a distribution that depends on nothing but the number of
facts said; template and phrases are then chosen so that it comes out. So length is independent of
meaning, and as `yes` and `no` are equally long, and attributes one word each, a negated or swapped
twin is as long as its sentence.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from diptych.data.worlds.sentences.meaning import ADJUNCTS, FACTS, HYPOTHESIS, Meaning
from diptych.data.worlds.sentences.words import AFTER, ASIDE, BEFORE, WORDINGS

LENGTHS = {FACTS: range(16, 23), HYPOTHESIS: range(10, 16)}
"""The lengths in words, each equally likely, of sentences that say so many facts."""

VISUAL = (
    "A does|doesn't V O @",
    "A is|isn't Ving O @",
    "A has|hasn't Ven O @",
    "A is|isn't busy Ving O @",
    "A happens|fails to V O @",
    "A manages|fails to V O @",
    "O is|isn't being Ven by A @",
    "O is|isn't being Ven @ by A",
    "O has|hasn't been Ven by A @",
    "O happens|fails to be Ven by A @",
    "it is A who manages|fails to V O @",
    "it is A who is|isn't Ving O @",
    "it is A who has|hasn't Ven O @",
    "it is O that A is|isn't Ving @",
    "it is O that A has|hasn't Ven @",
    "it is O that A manages|fails to V @",
    "what A is|isn't Ving @ is O",
    "what A has|hasn't Ven @ is O",
    "what A manages|fails to V @ is O",
    "the one who is|isn't Ving O @ is A",
    "the one who manages|fails to V O @ is A",
    "there is A who is|isn't Ving O @",
)


@lru_cache(maxsize=64)
def abstract(wording: str) -> tuple[str, ...]:
    """The templates that a stance's wording gives: its own, and clefts of it or clauses for its S.

    >>> abstract("A has a|no wish to V O @")[1:]
    ('it is A who has a|no wish to V O @', 'it is O that A has a|no wish to V @')
    """
    if wording.startswith("A "):
        return wording, f"it is A who {wording[2:]}", f"it is O that {wording.replace('V O', 'V')}"
    if wording.endswith(" S"):
        return tuple(f"{wording[:-1]}{_affirmed(clause)}" for clause in VISUAL)
    if " for A to V O" in wording:
        return wording, wording.replace("for A to V O", "for O to be Ven by A")
    head, noun, tail = wording.partition("the task of A")
    assert (head, tail) == ("it is|isn't ", " to V O @"), wording
    return wording, f"to V O @ is|isn't {noun}"


def _affirmed(template: str) -> str:
    return " ".join(sign.split("|")[0] for sign in template.split())


@dataclass(frozen=True)
class Wordings:
    """Which of its wordings each value takes in a text: number `turn` from a start that is the
    sentence's own.

    Texts of one sentence whose turns follow each other share no word that has a synonym.
    """

    start: tuple[int, ...]  # for each value, in [0, 6): every number of wordings, 1 to 3, divides 6
    turn: int = 0

    def __call__(self, kind: str, value: str) -> str:
        wordings = WORDINGS[kind][value]
        return wordings[(self.start[_PLACE[kind, value]] + self.turn) % len(wordings)]


_PLACE = {
    (kind, value): at
    for at, (kind, value) in enumerate((k, v) for k in WORDINGS for v in WORDINGS[k])
}


def wordings(rng: np.random.Generator) -> Wordings:
    """A sentence's own start for each value."""
    return Wordings(tuple(rng.integers(6, size=len(_PLACE)).tolist()))


def write(meaning: Meaning, words: Wordings, rng: np.random.Generator) -> str:
    """One sentence that means `meaning`, in the given words; `rng` draws its length, its form and
    its phrases.

    From the same words and the same state of `rng`, the swapped or negated meaning gives the
    sentence's minimal edit.
    """
    said = meaning.facts()
    lengths = LENGTHS[len(said)]
    length = lengths[int(rng.integers(len(lengths)))]
    templates = VISUAL if meaning.visual else abstract(words("stance", said["stance"]))
    phrases = [
        words(slot, said[slot]) for slot in rng.permutation(ADJUNCTS).tolist() if slot in said
    ]
    front = phrases[:1] if meaning.visual and rng.random() < 0.4 else []
    articles = ["a" if one else "the" for one in rng.random(2) < 0.5]
    relative = [bool(one) for one in rng.random(2) < 0.25]
    order = rng.permutation(len(templates)).tolist()
    for short in (False, True):  # "the cup that is small" only where there is room
        for at in order:
            plain = short or not templates[at].startswith(
                ("A ", "O ")
            )  # clefts have a "who" or "that" of their own
            parts = _parts(meaning, words, articles, relative if not plain else (False, False))
            parts["@"] = " ".join(phrases[len(front) :])
            core = fill(templates[at], parts, meaning.negative)
            spare = length - sum(len(part.split()) for part in (*front, core))
            if spare >= 0:
                before, after, aside = padding(spare, rng)
                return spell([before, *front, f"{core} {after}", aside])
    raise AssertionError(f"no template is short enough for {length} words: {meaning}")


def _parts(
    meaning: Meaning, words: Wordings, articles: Sequence[str], relative: Sequence[bool]
) -> dict[str, str]:
    """What the signs A, O, V, Ving and Ven of a template stand for."""
    infinitive, ing, participle = words("action", meaning.action or "").split()
    agent = meaning.agent and words("agent", meaning.agent)
    thing = meaning.object and words("object", meaning.object)
    looks = [
        value and words("attribute", value)
        for value in (meaning.agent_attribute, meaning.object_attribute)
    ]
    return {
        "A": _noun(agent, "someone", looks[0], articles[0], "who" if relative[0] else ""),
        "O": _noun(thing, "something", looks[1], articles[1], "that" if relative[1] else ""),
        "V": infinitive,
        "Ving": ing,
        "Ven": participle,
    }


def _noun(
    noun: str | None, pronoun: str, attribute: str | None, article: str, relative: str
) -> str:
    """A noun with its attribute: "the old king", "the king who is old", or "someone old" where no
    noun is said."""
    if noun is None:
        return f"{pronoun} {attribute}" if attribute else pronoun
    if attribute and relative:
        return f"{article} {noun} {relative} is {attribute}"
    return f"{article} {attribute} {noun}" if attribute else f"{article} {noun}"


def fill(template: str, parts: dict[str, str], negative: bool) -> str:
    """The template with its signs replaced."""
    signs = (sign.split("|")[-1 if negative else 0] for sign in template.split())
    return " ".join(parts.get(sign, sign) for sign in signs)


@lru_cache(maxsize=1)
def _by_length() -> tuple[dict[int, list[str]], ...]:
    """The empty phrases before, after and aside by their number of words; of none there is one."""
    tables: list[dict[int, list[str]]] = []
    for phrases in (BEFORE, AFTER, ASIDE):
        table = {0: [""]}
        for phrase in phrases:
            table.setdefault(len(phrase.split()), []).append(phrase)
        tables.append(table)
    return tuple(tables)


@lru_cache(maxsize=max(map(max, LENGTHS.values())))
def _splits(spare: int) -> list[tuple[int, ...]]:
    """The numbers of words before, after and aside that make `spare` together."""
    return [sizes for sizes in itertools.product(*_by_length()) if sum(sizes) == spare]


def padding(spare: int, rng: np.random.Generator) -> list[str]:
    """Empty phrases of `spare` words together, no two alike: before, after, aside."""
    splits = _splits(spare)
    chosen: list[str] = []
    for size, table in zip(splits[int(rng.integers(len(splits)))], _by_length(), strict=True):
        phrases = [phrase for phrase in table[size] if not phrase or phrase not in chosen]
        chosen.append(phrases[int(rng.integers(len(phrases)))])
    return chosen


def spell(parts: Sequence[str]) -> str:
    """Parts joined by commas, `an` before vowels, a capital and a full stop."""
    words = ", ".join(part.strip() for part in parts if part).split()
    for at in range(len(words) - 1):
        if words[at] == "a" and words[at + 1][0] in "aeiou":
            words[at] = "an"
    text = " ".join(words)
    return f"{text[0].upper()}{text[1:]}."
