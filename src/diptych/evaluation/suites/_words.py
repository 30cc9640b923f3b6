"""Words of texts against people's ratings of words, such as their concreteness: how much a text tower
attends to a word, and how the word was rated."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diptych.data.sample import BadSample
from diptych.data.sources.rows import open_rows
from diptych.errors import InputError
from diptych.metrics import correlation
from diptych.models.word_attention import Words

VALUES = ("mean", "rating", "concreteness", "imageability")
"""The columns that may hold the rating of a word; the first that a table has is read."""
MORE_THAN = 1  # occurrences in all texts, as published
FEWEST = 4  # words; fewer have no interval


def ratings(path: str) -> dict[str, float]:
    """The rating of each word in lower case, of a table (.csv, .tsv, .jsonl, .parquet) with a column
    `word` and one of `VALUES`.

    Raises InputError for a missing file or column, a row that cannot be read and a rating that is
    no number.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such file; name a table of words with --lexicon")
    rows = open_rows(path)
    value = next((name for name in VALUES if name in rows.columns), None)
    if "word" not in rows.columns or value is None:
        raise InputError(
            f"{path}: a lexicon needs a column word and one of {', '.join(VALUES)}; it has "
            f"{', '.join(rows.columns)}"
        )
    found: dict[str, float] = {}
    for number, row in enumerate(rows.scan(), 1):
        if isinstance(row, BadSample):
            raise InputError(f"{path}: row {number} cannot be read ({row}); correct it")
        try:
            found[str(row["word"]).lower()] = float(row[value])
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"{path}: row {number} has no word or no number as {value}; correct it"
            ) from None
    return found


def attention_report(texts: Sequence[Words], rated: Mapping[str, float]) -> dict[str, float]:
    """Return `attention_pearson` of the mean share of each word with its rating, the ends of its 95 %
    interval, and how many `attention_words` there are: those that are rated and occur more than
    once.

    Raises InputError for fewer than four of them.

    >>> texts = [[("dog", 0.7), ("on", 0.3)], [("dog", 0.6), ("on", 0.1), ("sand", 0.3)]]
    >>> texts += [[("sand", 0.5), ("why", 0.2), ("is", 0.3)], [("why", 0.4), ("is", 0.6)]]
    >>> found = attention_report(texts, {"dog": 4.9, "sand": 4.8, "on": 2.9, "is": 1.6, "why": 1.7})
    >>> found["attention_words"], round(found["attention_pearson"], 2)
    (5, 0.51)
    """
    shares: dict[str, list[float]] = defaultdict(list)
    for words in texts:
        for word, share in words:
            shares[word.lower()].append(share)
    known = [word for word, own in shares.items() if len(own) > MORE_THAN and word in rated]
    if len(known) < FEWEST:
        raise InputError(
            f"{len(known)} words of the texts occur more than once and are rated; it takes {FEWEST} "
            "to correlate: give more texts, or another lexicon"
        )
    means = np.array([np.mean(shares[word]) for word in known])
    r, low, high = correlation(means, np.array([rated[word] for word in known]))
    return {
        "attention_pearson": r,
        "attention_pearson_low": low,
        "attention_pearson_high": high,
        "chance_attention_pearson": 0.0,
        "attention_words": len(known),
    }
