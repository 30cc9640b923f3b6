"""Perplexity: how well a language model predicts the texts of a source.

    perplexity           exp( - Σ log p(text) / Σ tokens )        by this tokenizer; each text's end is a token
    bits_per_character   - Σ log2 p(text) / Σ characters          comparable between tokenizers

Chance is the uniform distribution over the vocabulary.
"""

import math
from collections import Counter
from typing import Any

from diptych.data.sample import BadSample, Sample, Source
from diptych.evaluation.embed import Progress, Steps, read_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites.retrieval import role_of, texts_of

card = {"title": "Perplexity of texts", "needs": ["texts"], "abilities": ["log_prob", "tokenizer"]}


def ready(model: Any, source: Source, *, role: str | None = None) -> None:
    """Raise InputError for a role that the source lacks."""
    role_of("perplexity", source, role)


def perplexity(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `perplexity` and `bits_per_character` of all texts of a role (caption, or the first;
    "*": of every role).

    Also returned: `n` texts, their `tokens`, `bad` samples (those with a text above the context) by
    reason, the protocol.
    """
    role = role_of("perplexity", source, role)
    bad = Counter()
    tokenizer = model.tokenizer

    def whole(sample: Sample) -> list[str]:
        """Return the texts of a sample, all of which must fit the context."""
        texts = texts_of(sample, role)
        if any(tokenizer.lost(text) for text in texts):
            raise BadSample("long", f"{sample.key} has a text above {tokenizer.context} tokens")
        return texts

    texts = [text for some in read_texts(source, whole, bad) for text in some]
    tokens = sum(len(tokenizer.ids(text)) + len(tokenizer.after) for text in texts)
    characters = sum(len(tokenizer.decode(tokenizer.ids(text))) for text in texts)
    steps = Steps(progress, len(texts))
    total = 0.0
    for start in range(0, len(texts), batch_size):
        some = texts[start : start + batch_size]
        total += float(model.log_prob(some, batch_size=batch_size).double().sum())
        steps.add(len(some))
    protocol = protocol_of(
        "perplexity",
        source,
        model,
        field=role,
        rule="each text from its start, its end counted",
        options=(f"tokenizer={tokenizer.fingerprint[:12]}",),
    )
    return {
        "n": len(texts),
        "tokens": tokens,
        "perplexity": math.exp(-total / tokens),
        "chance_perplexity": float(tokenizer.vocab_size),
        "bits_per_character": -total / math.log(2) / characters,
        "bad": dict(bad),
    } | describe(protocol, model)
