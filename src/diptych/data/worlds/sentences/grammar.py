"""The grammar: from a meaning to a sentence.

A template is a sequence of words. `A` and `O` are placeholders for agent and object with their
attributes, `V`, `Ving` and `Ven` for forms of the action, `@` for place, time and recipient, and
`yes|no` for a word of the affirmative and of the negated sentence. A sentence is a template with
filler phrases before and after it.

Its length in words is drawn first, from a distribution that depends only on the number of facts;
template and phrases are then chosen to match it. So length is independent of meaning. Since `yes`
and `no` have equal lengths and attributes are one word each, a negated or swapped twin is as long
as its sentence.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from diptych.data.worlds.sentences.meaning import ADJUNCTS, EVENT, FACTS, HYPOTHESIS, Meaning
from diptych.data.worlds.sentences.words import AFTER, ASIDE, BEFORE, WORDINGS

LENGTHS = {FACTS: range(16, 23), EVENT: range(8, 12), HYPOTHESIS: range(10, 16)}
"""The lengths in words, equally likely, of sentences by their number of facts."""

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
    """The templates of a stance's wording: itself, and its clefts, or the clauses for its S.

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
    """The wording of each value in a text: number `turn` from a start that is random for each
    sentence.

    Texts of one sentence with consecutive turns share no word that has a synonym. Without
    `synonyms` each value has its first wording everywhere.
    """

    start: tuple[int, ...]  # for each value, in [0, 6): every number of wordings, 1 to 3, divides 6
    turn: int = 0
    synonyms: bool = True

    def __call__(self, kind: str, value: str) -> str:
        wordings = WORDINGS[kind][value][: None if self.synonyms else 1]
        return wordings[(self.start[_PLACE[kind, value]] + self.turn) % len(wordings)]


_PLACE = {
    (kind, value): at
    for at, (kind, value) in enumerate((k, v) for k in WORDINGS for v in WORDINGS[k])
}


def wordings(rng: np.random.Generator) -> Wordings:
    """A random start for each value."""
    return Wordings(tuple(rng.integers(6, size=len(_PLACE)).tolist()))


def write(meaning: Meaning, words: Wordings, rng: np.random.Generator) -> str:
    """Write a sentence of a meaning in the given wordings; `rng` draws length, template and
    phrases.

    With the same wordings and state of `rng`, the swapped or negated meaning gives a minimal edit
    of the sentence.
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
    for short in (False, True):  # "the cup that is small" only if it fits the length
        for at in order:
            plain = short or not templates[at].startswith(
                ("A ", "O ")
            )  # clefts already have a "who" or "that"
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
    """The words for the placeholders A, O, V, Ving and Ven of a template."""
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
    """A noun with its attribute: "the old king", "the king who is old", or "someone old" without a
    noun."""
    if noun is None:
        return f"{pronoun} {attribute}" if attribute else pronoun
    if attribute and relative:
        return f"{article} {noun} {relative} is {attribute}"
    return f"{article} {attribute} {noun}" if attribute else f"{article} {noun}"


def fill(template: str, parts: dict[str, str], negative: bool) -> str:
    """The template with its placeholders filled in."""
    signs = (sign.split("|")[-1 if negative else 0] for sign in template.split())
    return " ".join(parts.get(sign, sign) for sign in signs)


@lru_cache(maxsize=1)
def _by_length() -> tuple[dict[int, list[str]], ...]:
    """The filler phrases before, after and aside by their number of words; the only one of 0 words
    is ""."""
    tables: list[dict[int, list[str]]] = []
    for phrases in (BEFORE, AFTER, ASIDE):
        table = {0: [""]}
        for phrase in phrases:
            table.setdefault(len(phrase.split()), []).append(phrase)
        tables.append(table)
    return tuple(tables)


@lru_cache(maxsize=max(map(max, LENGTHS.values())))
def _splits(spare: int) -> list[tuple[int, ...]]:
    """The numbers of words before, after and aside that sum to `spare`."""
    return [sizes for sizes in itertools.product(*_by_length()) if sum(sizes) == spare]


def padding(spare: int, rng: np.random.Generator) -> list[str]:
    """Different filler phrases before, after and aside with `spare` words in total."""
    splits = _splits(spare)
    chosen: list[str] = []
    for size, table in zip(splits[int(rng.integers(len(splits)))], _by_length(), strict=True):
        phrases = [phrase for phrase in table[size] if not phrase or phrase not in chosen]
        chosen.append(phrases[int(rng.integers(len(phrases)))])
    return chosen


def spell(parts: Sequence[str]) -> str:
    """Join parts by commas, with `an` before vowels, a capital and a full stop."""
    words = ", ".join(part.strip() for part in parts if part).split()
    for at in range(len(words) - 1):
        if words[at] == "a" and words[at + 1][0] in "aeiou":
            words[at] = "an"
    text = " ".join(words)
    return f"{text[0].upper()}{text[1:]}."
