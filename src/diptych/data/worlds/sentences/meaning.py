"""Meanings of sentences, one value for each stated slot: sampling and comparison.

A sentence of either kind states seven facts: an agent, its attribute, an action, an object, its
attribute, and two more. In a visual sentence these are two of where, when and for whom. In an
abstract sentence they are one of these and the stance on the event: that someone may do it, must,
plans to, ….
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np

from diptych.data.worlds.sentences.words import (
    ACTIONS,
    AGENTS,
    ATTRIBUTES,
    OBJECTS,
    PLACES,
    RECIPIENTS,
    STANCES,
    TIMES,
    TOPIC_OF,
    TOPICS,
)
from diptych.errors import InputError

VALUES: dict[str, tuple[str, ...]] = {
    "agent": tuple(AGENTS),
    "agent_attribute": tuple(ATTRIBUTES),
    "action": tuple(ACTIONS),
    "object": OBJECTS,
    "object_attribute": tuple(ATTRIBUTES),
    "stance": tuple(STANCES),
    "place": tuple(PLACES),
    "time": tuple(TIMES),
    "recipient": tuple(RECIPIENTS),
}
"""The values of each slot; classes are numbered in this order."""

CORE = ("agent", "agent_attribute", "action", "object", "object_attribute")
ADJUNCTS = ("place", "time", "recipient")
RELATIONS = ("entailment", "neutral", "contradiction")
FACTS = 7  # in a sentence
EVENT = len(CORE)  # in a sentence about the event alone
HYPOTHESIS = 4  # facts in a hypothesis

_NUMBER = {slot: {value: at for at, value in enumerate(values)} for slot, values in VALUES.items()}


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """The value of each slot, None if the sentence does not state it; `negative` sentences negate
    the whole."""

    agent: str | None = None
    agent_attribute: str | None = None
    action: str | None = None
    object: str | None = None
    object_attribute: str | None = None
    stance: str | None = None
    place: str | None = None
    time: str | None = None
    recipient: str | None = None
    negative: bool = False

    def facts(self) -> dict[str, str]:
        """The stated values by slot.

        >>> Meaning(action="wash", time="noon").facts()
        {'action': 'wash', 'time': 'noon'}
        """
        return {slot: value for slot in VALUES if (value := getattr(self, slot)) is not None}

    @property
    def visual(self) -> bool:
        """Whether the sentence describes what is visible; else it states what someone may, must,
        hopes, …"""
        return self.stance is None

    @property
    def topic(self) -> str | None:
        """The topic of the object."""
        return None if self.object is None else TOPIC_OF[self.object]

    def number(self, slot: str) -> int:
        """The class of a slot's value, -1 if it is not stated."""
        return _NUMBER[slot].get(getattr(self, slot), -1)

    def swapped(self) -> "Meaning":
        """The meaning with the attributes of agent and object exchanged."""
        return replace(
            self, agent_attribute=self.object_attribute, object_attribute=self.agent_attribute
        )


assert tuple(VALUES) == tuple(item.name for item in fields(Meaning))[:-1]


def similarity(a: Meaning, b: Meaning) -> float:
    """The share of facts that both state, in [0, 1]; for equal numbers of facts, the slot overlap.

        |facts(a) & facts(b)| / max(|facts(a)|, |facts(b)|)

    A fact that one affirms and the other negates is not shared.

    >>> a = Meaning(agent="king", action="wash", object="drum", time="noon")
    >>> similarity(a, Meaning(agent="king", action="hide", object="drum", place="beach"))
    0.5
    """
    said = a.facts().items()
    other = b.facts().items()
    return len(said & other) / max(len(said), len(other)) if a.negative == b.negative else 0.0


def relation(premise: Meaning, hypothesis: Meaning) -> str:
    """The relation of a premise to a hypothesis about the same event.

    contradiction: a slot that both state has different values; entailment: the premise states all
    facts of the hypothesis; neutral: neither. Raises InputError for negated and abstract sentences,
    for which this rule would not hold.

    >>> a = Meaning(agent="king", action="wash", object="drum", time="noon")
    >>> more = ({}, {"time": "dusk"}, {"place": "park"})
    >>> [relation(a, Meaning(agent="king", action="wash", **other)) for other in more]
    ['entailment', 'contradiction', 'neutral']
    """
    if premise.negative or hypothesis.negative or not (premise.visual and hypothesis.visual):
        raise InputError("a relation holds between affirmative visual sentences; give two of these")
    said = premise.facts()
    asked = hypothesis.facts()
    if any(slot in said and said[slot] != value for slot, value in asked.items()):
        return "contradiction"
    return "entailment" if asked.items() <= said.items() else "neutral"


def unseen(meaning: Meaning) -> bool:
    """Whether the meaning contains a pair of values that is reserved for the test split.

    With all values numbered from 0, a fifth of the pairs is reserved: agent a with action b where a
    + b, object o with its attribute t where o + t is a multiple of 5. So each action lacks 4 of 20
    agents, each object 2 of 10 attributes.
    """
    return _reserved(meaning, "agent", "action") or _reserved(meaning, "object", "object_attribute")


def _reserved(meaning: Meaning, first: str, second: str) -> bool:
    a = meaning.number(first)
    b = meaning.number(second)
    return a >= 0 and b >= 0 and (a + b) % 5 == 0


def familiar(meaning: Meaning) -> bool:
    """Whether neither the meaning nor its swapped twin has a reserved pair, as required in train
    and val."""
    return not unseen(meaning) and not unseen(meaning.swapped())


@lru_cache(maxsize=8)
def long_tail(tail: float) -> np.ndarray:
    """The share of each object (64,): that of rank r (from 1) is proportional to r ** -tail.

    >>> long_tail(1.0)[[0, 1, -1]].round(4)
    array([0.2108, 0.1054, 0.0033])
    """
    weights = np.arange(1, len(OBJECTS) + 1, dtype=float) ** -tail
    return weights / weights.sum()


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The distribution of meanings: `kind` visual, abstract or both; the share `negative`; the
    objects' `tail`; `event` for the event alone, without place, time, recipient and stance.

    Only the `split` "test" has reserved pairs, in half of its sentences.
    """

    split: str
    kind: str
    negative: float
    tail: float
    event: bool = False

    def meaning(self, rng: np.random.Generator) -> Meaning:
        """Draw a meaning. The object is drawn first and kept, so that its share is exactly
        `long_tail`."""
        wanted = self.split == "test" and rng.random() < 0.5
        visual = self.kind == "visual" or (self.kind == "both" and rng.random() < 0.5)
        negative = bool(rng.random() < self.negative)
        item = self._object(rng)
        while True:
            found = Meaning(
                agent=_any(rng, "agent"),
                agent_attribute=_any(rng, "agent_attribute"),
                action=_any(rng, "action"),
                object=item,
                object_attribute=_any(rng, "object_attribute"),
                negative=negative,
            )
            if _apart(found) and (unseen(found) if wanted else familiar(found)):
                return found if self.event else replace(found, **_rest(rng, visual, item))

    def like(self, meaning: Meaning, shared: int, rng: np.random.Generator) -> Meaning:
        """Draw a meaning of the same kind and number of facts that shares exactly `shared` facts
        with `meaning`."""
        said = meaning.facts()
        if shared == len(said):
            return meaning
        while True:
            kept = {slot: said[slot] for slot in rng.permutation(list(said))[:shared].tolist()}
            item = kept.get("object") or self._object(rng)
            core = {slot: kept.get(slot) or _any(rng, slot) for slot in CORE if slot != "object"}
            rest = {} if self.event else _rest(rng, meaning.visual, item)
            rest |= {slot: value for slot, value in kept.items() if slot not in CORE}
            found = Meaning(**core, object=item, **rest, negative=meaning.negative)
            facts = found.facts()
            if (
                len(facts) == len(said)
                and len(said.items() & facts.items()) == shared
                and self.allows(found)
            ):
                return found

    def hypothesis(self, meaning: Meaning, wanted: str, rng: np.random.Generator) -> Meaning:
        """Draw a hypothesis of 4 facts with the relation `wanted` to a visual meaning.

        For each relation it states the action, a place, time or recipient, and two of the rest, so
        the hypothesis alone does not reveal the relation. A contradiction has another value in one
        of its slots.
        """
        assert meaning.visual, "hypotheses are of visual sentences"
        said = [slot for slot in ADJUNCTS if slot in meaning.facts()]
        rest = [slot for slot in CORE if slot != "action"]
        while True:
            adjunct = said[int(rng.integers(len(said)))]
            slots = ["action", adjunct, *rng.permutation(rest)[: HYPOTHESIS - 2].tolist()]
            values = {slot: getattr(meaning, slot) for slot in slots}
            if wanted == "neutral":
                del values[adjunct]
                [other] = [slot for slot in ADJUNCTS if slot not in said]
                values[other] = _value(rng, other, meaning.object)
            elif wanted == "contradiction":
                slot = str(rng.choice(slots))
                values[slot] = (
                    self._object(rng) if slot == "object" else _value(rng, slot, meaning.object)
                )
            found = Meaning(**values)
            if relation(meaning, found) == wanted and self.allows(found):
                return found

    def allows(self, meaning: Meaning) -> bool:
        """Whether the meaning may occur in the split; its attributes must differ."""
        return _apart(meaning) and (self.split == "test" or familiar(meaning))

    def _object(self, rng: np.random.Generator) -> str:
        return OBJECTS[
            int(np.searchsorted(np.cumsum(long_tail(self.tail))[:-1], rng.random(), side="right"))
        ]


def _apart(meaning: Meaning) -> bool:
    """Whether swapping the attributes changes the meaning."""
    return meaning.agent_attribute is None or meaning.agent_attribute != meaning.object_attribute


def _any(rng: np.random.Generator, slot: str) -> str:
    values = VALUES[slot]
    return values[int(rng.integers(len(values)))]


def _rest(rng: np.random.Generator, visual: bool, item: str | None) -> dict[str, str]:
    """The two facts of a sentence in addition to the five of the event."""
    first = int(rng.integers(len(ADJUNCTS)))
    slots = [ADJUNCTS[first], ADJUNCTS[first - 1]] if visual else ["stance", ADJUNCTS[first]]
    return {slot: _value(rng, slot, item) for slot in slots}


def _value(rng: np.random.Generator, slot: str, item: str | None) -> str:
    """Draw a value of a slot; half of the places are from the object's topic."""
    if slot == "place" and item is not None and rng.random() < 0.5:
        return _places(TOPIC_OF[item])[int(rng.integers(2))]
    return _any(rng, slot)


def _places(topic: str) -> Sequence[str]:
    at = 2 * list(TOPICS).index(topic)
    return VALUES["place"][at : at + 2]
