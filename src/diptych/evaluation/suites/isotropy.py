"""Isotropy of the token states of a language model: whether the tokens of a text point in different
directions.

    isotropy = 1 - Σ_texts Σ_{i ≠ j} cos(h_i, h_j) / Σ_texts L (L - 1)

h_i are the L tokens of a text after the final norm, that of its start included. Every pair of tokens
counts once, so long texts count more. It is 1 where all tokens are orthogonal and 0 where all are
alike; contrastive search needs it well above 0. It is a different quantity from that of the suite
gap, which is of one vector a text.

Texts of fewer than 2 characters are left out, others are cut at `length` tokens, and at most `max_texts`
texts are read. Source: Su and Collier 2023.
"""

from collections import Counter
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, read_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites.retrieval import role_of, texts_of

card = {
    "title": "Isotropy of the token states of a language model",
    "needs": ["texts"],
    "abilities": ["hidden_states", "tokenizer"],
}


def ready(
    model: Any, source: Source, *, role: str | None = None, length: int = 256, max_texts: int = 2000
) -> None:
    """Raise InputError for a role that the source lacks, and texts of one token."""
    role_of("isotropy", source, role)
    if length < 2 or max_texts < 1:
        raise InputError(
            f"length is {length}, max_texts {max_texts}; they must be at least 2 tokens and 1 text"
        )


def isotropy(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    length: int = 256,
    max_texts: int = 2000,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `isotropy` of the first text of each sample, the `tokens` and the `n` texts it is of,
    `bad` samples by reason, and the protocol.

    Raises InputError if no text has two tokens.
    """
    ready(model, source, role=role, length=length, max_texts=max_texts)
    role = role_of("isotropy", source, role)
    bad = Counter()

    def first(sample: Sample) -> str:
        """Return the text of a sample."""
        text = texts_of(sample, role)[0]
        if len(text.strip()) < 2:
            raise BadSample("short", f"{sample.key} has fewer than 2 characters")
        return text

    texts = read_texts(source, first, bad)[:max_texts]
    steps = Steps(progress, len(texts))
    total = 0.0
    pairs = 0
    tokens = 0
    for start in range(0, len(texts), batch_size):
        some = texts[start : start + batch_size]
        encoded = model.hidden_states(some, length=length)
        sums, counts = cosines(encoded.tokens, encoded.mask)
        total += float(sums.sum())
        pairs += int(counts.sum())
        tokens += int(encoded.mask.sum())
        steps.add(len(some))
    protocol = protocol_of(
        "isotropy",
        source,
        model,
        field=role,
        rule="first text of each sample, its start read; every pair of tokens counts once",
        options=(f"length={length}", f"max_texts={max_texts}"),
    )
    return {
        "n": len(texts),
        "tokens": tokens,
        "isotropy": _of(total, pairs),
        "bad": dict(bad),
    } | describe(protocol, model)


def report(hidden: Tensor, mask: Tensor) -> float:
    """Return the isotropy of tokens (B, L, D), real where the mask (B, L) is True.

    >>> import torch
    >>> hidden = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [1.0, 1.0]]])
    >>> round(report(hidden, torch.ones(1, 4, dtype=torch.bool)), 6)
    0.365973
    """
    sums, pairs = cosines(hidden, mask)
    return _of(float(sums.sum()), int(pairs.sum()))


def cosines(hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of cosines of the ordered pairs of different real tokens of each text (B,), and
    the number of these pairs (B,)."""
    unit = normalize(hidden.double(), dim=-1) * mask[..., None]
    own = unit.square().sum((1, 2))  # the pairs of a token with itself
    lengths = mask.sum(1)
    return unit.sum(1).square().sum(1) - own, lengths * (lengths - 1)


def _of(total: float, pairs: int) -> float:
    if not pairs:
        raise InputError("no text has two tokens, and isotropy is of pairs; give longer ones")
    return 1 - total / pairs
