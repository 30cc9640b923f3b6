"""Words of texts: which of them a text's embedding depends on most, and putting another one in its
place.

    importance(w) = Σ softmax(f) · log( softmax(f) / softmax(f without w) )

f is the unit vector of a text; the sums run over its dimensions. In place of the word stands
[UNK], or nothing if the tokenizer has no such token.

Dimensions: N texts, L tokens, D width of a word embedding, E embedding.
"""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diptych.data.eda import STOP_WORDS
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.towers.dual import DualEncoder

Span = tuple[int, int]
"""The first token of a word, and that behind its last."""

_LETTERS = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
LEAST_LETTERS = 3


def spans_of(row: Sequence[int], tokenizer: Tokenizer) -> list[Span]:
    """The words of an encoded text; its first token if it has none.

    >>> from diptych.data.tokenizers import build
    >>> tokenizer = build("bpe:vocab_size=262:context=16", ["red cat"])
    >>> spans_of(tokenizer.encode(["a cat"])[0], tokenizer)
    [(1, 3), (3, 7)]
    """
    first = len(tokenizer.before)
    inner = list(row[first : len(row) - len(tokenizer.after)])
    starts = [at for at, begins in enumerate(tokenizer.starts_word(inner), first) if begins]
    if not starts:
        return [(0, 1)]
    return list(zip(starts, [*starts[1:], first + len(inner)], strict=True))


@torch.no_grad()
def most_important(
    encoder: DualEncoder,
    tokenizer: Tokenizer,
    rows: Sequence[Sequence[int]],
    spans: Sequence[Sequence[Span]],
) -> list[int]:
    """The number of the most important of the spans of each encoded text, the first in a tie."""
    unknown = [tokenizer.special["unk"]] if "unk" in tokenizer.special else []
    less = [
        [*row[:start], *unknown, *row[stop:]]
        for row, own in zip(rows, spans, strict=True)
        for start, stop in own
    ]
    vectors = _embed(encoder, tokenizer, [*map(list, rows), *less]).log_softmax(-1)
    whole = vectors[: len(rows)]
    sizes = [len(own) for own in spans]
    owner = torch.arange(len(rows), device=vectors.device).repeat_interleave(
        torch.tensor(sizes, device=vectors.device)
    )
    found = importance(whole[owner], vectors[len(rows) :])
    return [int(part.argmax()) for part in found.split(sizes)]


def importance(whole: Tensor, less: Tensor) -> Tensor:
    """KL divergences (N,) of log-probabilities (N, E) of texts from those without a word."""
    return (whole.exp() * (whole - less)).sum(-1)


def _embed(encoder: DualEncoder, tokenizer: Tokenizer, rows: Sequence[list[int]]) -> Tensor:
    ids, lengths = pad_batch(rows, tokenizer)
    device = next(encoder.parameters()).device
    return encoder.embed_texts(ids.to(device), lengths.to(device))


def substituted(
    table: torch.nn.Module,
    ids: Tensor,
    lengths: Tensor,
    start: Tensor,
    size: Tensor,
    word: Tensor,
    pad: int,
) -> tuple[Tensor, Tensor]:
    """Embeddings (N, L, D) and lengths (N,) of texts in which `word` (D,) takes the place of a
    word.

    Its first token, at `start` (N,), becomes `word`; the other tokens of its `size` (N,) are left
    out, later ones move to the left, and pads follow.
    """
    place = torch.arange(ids.shape[1], device=ids.device)
    moved = place + (place > start[:, None]) * (size[:, None] - 1)
    inside = moved < ids.shape[1]
    shifted = ids.gather(1, moved.clamp(max=ids.shape[1] - 1)).where(inside, pad)
    embeddings = table(shifted)
    here = (place == start[:, None])[..., None]
    return torch.where(here, word.to(embeddings), embeddings), lengths - size + 1


def rescaled(vector: Tensor, table: Tensor) -> Tensor:
    """The vector (D,) with its length clipped to those of the rows of a table (V, D).

    >>> table = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> rescaled(torch.tensor([3.0, 4.0]), table), rescaled(torch.tensor([0.3, 0.4]), table)
    (tensor([1.2000, 1.6000]), tensor([0.6000, 0.8000]))
    """
    lengths = table.norm(dim=1)
    length = vector.norm().clamp(min=1e-12)
    return vector * (length.clamp(float(lengths.min()), float(lengths.max())) / length)


def whole_words(tokenizer: Tokenizer) -> dict[int, str]:
    """The words of a vocabulary that are one token, without stop words and such of fewer than
    three letters, by id."""
    found = {}
    for number in map(int, tokenizer.ordinary):
        word = tokenizer.decode([number]).strip()
        usable = word.isalpha() and len(word) >= LEAST_LETTERS and word.lower() not in STOP_WORDS
        if usable and tokenizer.ids(word) == [number]:
            found[number] = word
    return found


def nearest_word(vector: Tensor, table: Tensor, words: dict[int, str]) -> str:
    """The word of `whole_words` whose row of the table (V, D) is nearest to a vector (D,)."""
    ids = torch.tensor(sorted(words), device=table.device)
    distances = (table[ids] - vector.to(table)).norm(dim=1)
    return words[int(ids[distances.argmin()])]


def replaced(
    texts: Sequence[str], word: str, encoder: DualEncoder, tokenizer: Tokenizer
) -> list[str]:
    """Texts in which `word` takes the place of the most important word that is no stop word.

    Marks around it stay. A text that has stop words alone is not changed.
    """
    cut = [text.split() for text in texts]
    rows = []
    spans = []
    places = []
    for words in cut:
        row, own = _spelled(words, tokenizer)
        usable = [at for at, part in enumerate(words) if at < len(own) and _is_content(part)]
        rows.append(row)
        places.append(usable)
        spans.append([own[at] for at in usable])
    chosen = [number for number, own in enumerate(spans) if own]
    found = list(texts)
    if not chosen:
        return found
    best = most_important(
        encoder,
        tokenizer,
        [rows[number] for number in chosen],
        [spans[number] for number in chosen],
    )
    for number, at in zip(chosen, best, strict=True):
        words = list(cut[number])
        place = places[number][at]
        words[place] = _LETTERS.sub(lambda _: word, words[place], count=1)
        found[number] = " ".join(words)
    return found


def _spelled(words: Sequence[str], tokenizer: Tokenizer) -> tuple[list[int], list[Span]]:
    """The ids of a text by its words, and the spans of those that fit into the context."""
    row = list(tokenizer.before)
    spans = []
    for word in words:
        ids = tokenizer.ids(word)
        if len(row) - len(tokenizer.before) + len(ids) > tokenizer.room:
            break
        spans.append((len(row), len(row) + len(ids)))
        row += ids
    return [*row, *tokenizer.after], spans


def _is_content(word: str) -> bool:
    letters = _LETTERS.search(word)
    return letters is not None and letters[0].lower() not in STOP_WORDS


def random_word(words: dict[int, str], rng: np.random.Generator) -> int:
    """The id of a random word of `whole_words`."""
    return int(rng.choice(sorted(words)))
