"""Sentences about things of another world, in words that both kinds share: an abstract one holds something about them,
a text that shows them gets phrases around it that say nothing.

Half of these phrases hold words of what is held ("by right", "before long", "without any obligation"), and the verbs
are theirs too. So no word alone tells the kinds apart, and neither does the length.
"""

from collections.abc import Sequence

import numpy as np

from diptych.data.worlds.sentences.grammar import _fill, _padding, _spell, abstract
from diptych.data.worlds.sentences.words import STANCES

VERBS = ("expect", "explain", "know", "mind", "see", "hear of")
"""What one can do with anything; each a word of the phrases."""


def _templates(wording: str) -> list[str]:
    """The templates of a stance's wording that take a verb's infinitive alone."""
    return [template for template in abstract(wording) if not {"Ving", "Ven"} & set(template.split())]


TEMPLATES: dict[str, Sequence[str]] = {
    name: [template for wording in wordings for template in _templates(wording)] for name, wordings in STANCES.items()
}
"""By stance."""


def held(
    agent: str, thing: str, place: str, rng: np.random.Generator, stances: Sequence[str] = tuple(TEMPLATES)
) -> str:
    """What someone may, must or hopes to do with a thing, affirmed or denied, as a row of words without a full stop.

    >>> held("a red cat", "two keys", "on grass", np.random.default_rng(3))
    'the worry is that there is a red cat who mind two keys on grass'
    """
    templates = TEMPLATES[stances[int(rng.integers(len(stances)))]]
    template = templates[int(rng.integers(len(templates)))]
    verb = VERBS[int(rng.integers(len(VERBS)))]
    return _fill(template, {"A": agent, "O": thing, "V": verb, "@": place}, bool(rng.random() < 0.5))


def padded(text: str, length: int, rng: np.random.Generator) -> str:
    """The text with phrases that say nothing before and behind it, `length` words long where it was shorter, with a
    capital and a full stop.

    >>> padded("a red cat on grass", 11, np.random.default_rng(0))
    'In the end, a red cat on grass on purpose.'
    """
    spare = max(0, length - len(text.split()))
    before, after, aside = _padding(spare, rng)
    return _spell([before, f"{text} {after}", aside])
