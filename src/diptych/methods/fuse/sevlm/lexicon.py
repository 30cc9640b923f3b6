"""A lexicon of affect: the valence, arousal and dominance (VAD) of words, from -1 to 1, and those of the
tokens of a tokenizer.

NRC-VAD is a text file with a word and three numbers a line, apart by tabs; version 1 scales them from 0
to 1, version 2 from -1 to 1. It is for research, and no part of this package.

Dimensions: V tokens of a vocabulary.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from diptych.data.tokenizers import Tokenizer
from diptych.data.worlds.paintings.words import AFFECT
from diptych.errors import InputError
from diptych.rng import generator

Values = tuple[float, float, float]
OWN = "paintings"
"""The lexicon of the world `paintings`, of 294 words."""
_MOST = 1 << 25  # bytes of a file


def read(name: str) -> dict[str, Values]:
    """Return the valence, arousal and dominance of each word of a lexicon, from -1 to 1: `paintings`, or
    a file in the form of NRC-VAD.

    Numbers from 0 to 1 alone are scaled by 2 x - 1. Phrases of several words are left out, as no token is
    one. Raises InputError for a file that is not there, is too large, or has another form.

    >>> round(read("paintings")["joyful"][0], 2)
    0.9
    """
    if name == OWN:
        return dict(AFFECT)
    path = Path(name).expanduser()
    try:
        if path.stat().st_size > _MOST:
            raise InputError(f"{path}: a lexicon has at most {_MOST >> 20} MB; name another file")
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"there is no lexicon in {name}; name {OWN}, or a file such as NRC-VAD-Lexicon.txt"
        ) from None
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if rows and _values(rows[0][1]) is None:
        rows = rows[1:]  # the names of columns
    found: dict[str, Values] = {}
    for number, line in rows:
        values = _values(line)
        if values is None or not all(abs(value) <= 1 for value in values):
            raise InputError(
                f"{path}:{number}: no word with its valence, arousal and dominance, three numbers from -1 to 1 "
                "apart by tabs; compare it with NRC-VAD-Lexicon.txt"
            )
        word = line.split("\t")[0].strip().lower()
        if word and " " not in word:
            found.setdefault(word, values)
    if not found:
        raise InputError(f"{path}: no word is in it; name a file such as NRC-VAD-Lexicon.txt")
    if min(map(min, found.values())) >= 0:
        return {word: (2 * v - 1, 2 * a - 1, 2 * d - 1) for word, (v, a, d) in found.items()}
    return found


def _values(line: str) -> Values | None:
    """The numbers of a line; None where it has another form."""
    cells = line.rstrip().split("\t")
    try:
        valence, arousal, dominance = map(float, cells[1:])
    except ValueError:
        return None
    return valence, arousal, dominance


def token_values(
    lexicon: Mapping[str, Values],
    tokenizer: Tokenizer,
    *,
    lemmas: bool = True,
    permuted: int | None = None,
) -> np.ndarray:
    """Return the values (V, 3) of each token, float32: those of its text, without the mark of a space,
    or of its lemma, else 0.

    With a seed `permuted`, the values of the words are permuted among them, as a control. Raises
    InputError if no token has a value.
    """
    if permuted is not None:
        order = generator(permuted, "lexicon").permutation(len(lexicon))
        values = list(lexicon.values())
        lexicon = {word: values[at] for word, at in zip(lexicon, order, strict=True)}
    lemma = _lemmatizer() if lemmas else None
    found = np.zeros((tokenizer.vocab_size, 3), np.float32)
    for token in tokenizer.ordinary.tolist():
        word = tokenizer.decode([token]).strip().lower()
        if not word.isalpha():
            continue
        values = lexicon.get(word)
        if values is None and lemma is not None:
            values = lexicon.get(lemma(word))
        if values is not None:
            found[token] = values
    if not found.any():
        raise InputError(
            "no token of the language model is a word of the lexicon; name another one with --method.lexicon, a "
            "language model with longer tokens, or leave valence, arousal and dominance out with "
            "--method.lexicon null"
        )
    return found


def _lemmatizer() -> Callable[[str], str]:
    try:
        from simplemma import lemmatize
    except ImportError:
        raise InputError(
            "the lemmas of words need simplemma; install it with: pip install 'diptych[text]', or leave them out "
            "with --method.lemmas false"
        ) from None
    return lambda word: str(lemmatize(word, lang="en")).lower()
