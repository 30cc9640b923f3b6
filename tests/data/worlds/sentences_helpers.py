"""What the tests of the world `sentences` share: its samples, made once, and what words alone
tell."""

import re
from collections import Counter
from functools import cache

import numpy as np
from scipy.stats import chi2_contingency
from sklearn.naive_bayes import BernoulliNB

from diptych.data.sources import open_source
from diptych.data.worlds.sentences.words import WORDINGS

SLOT_WORDS = {
    word
    for slot, values in WORDINGS.items()
    if slot != "stance"
    for wordings in values.values()
    for wording in wordings
    for word in wording.split()
} - {"in", "at", "on", "for", "the", "a", "during", "after", "past"}


GRADED = "pair=graded:kind=both:negative=0.3"
INFERENCE = "pair=inference:roles=entailment+neutral+contradiction"


@cache
def read(options: str, count: int):
    """The samples of `sentences:OPTIONS`; made once."""
    return list(open_source(f"sentences:count={count}{options and ':' + options}"))


def words(*texts: str) -> list[str]:
    return [word for text in texts for word in re.findall(r"[\w']+", text.lower())]


def content(text: str) -> set[str]:
    return SLOT_WORDS & set(words(text))


def alike(text: str) -> Counter:
    """The words of a text, `an` and `a` as one."""
    return Counter("a" if word == "an" else word for word in words(text))


def dependence(lengths: np.ndarray, classes: np.ndarray) -> float:
    """p of the chi-square test that two labels are independent."""
    table = np.zeros((lengths.max() + 1, classes.max() + 2))
    np.add.at(table, (lengths, classes), 1)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    return float(chi2_contingency(table).pvalue)


def accuracy(texts: list[str], labels: np.ndarray) -> float:
    """How well naive Bayes tells a label of the last third from words, having seen the rest."""
    vocabulary = {
        word: at for at, word in enumerate(sorted({word for text in texts for word in words(text)}))
    }
    present = np.zeros((len(texts), len(vocabulary)), bool)
    for row, text in enumerate(texts):
        present[row, [vocabulary[word] for word in words(text)]] = True
    cut = 2 * len(texts) // 3
    return float(BernoulliNB().fit(present[:cut], labels[:cut]).score(present[cut:], labels[cut:]))
