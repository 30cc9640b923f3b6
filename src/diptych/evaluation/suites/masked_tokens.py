"""Masked tokens: how often a text model restores a token that it does not see.

    accuracy = share of the masked tokens that are the likeliest at their place

Of each text a share of the tokens is masked, chosen by a seed; with `whole_word`, of whole words.
Also reported is how many tokens a text takes: a vocabulary that suits the texts spells them in
fewer. Chance is always predicting the most common of the masked tokens.

Source: Devlin et al. 2019 (BERT); Boecking et al. 2022 (BioViL) compare vocabularies by both numbers.
"""

from collections import Counter
from typing import Any

import numpy as np
import torch

from diptych.data.sample import Source
from diptych.data.tokenizers import pad_batch
from diptych.data.views import MaskedTextView
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, read_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.rng import generator

card = {
    "title": "Masked tokens that are restored",
    "needs": ["texts"],
    "abilities": ["fill", "tokenizer"],
}


def ready(model: Any, source: Source, *, role: str | None = None, rate: float = 0.15) -> None:
    """Raise InputError for a role that the source lacks, and for a rate that is no share."""
    role_of("masked_tokens", source, role)
    if not 0 < rate <= 1:
        raise InputError(f"rate is {rate}; it is a share of the tokens, above 0")


def masked_tokens(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    rate: float = 0.15,
    whole_word: bool = False,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `accuracy` over the masked tokens of all texts of a role (caption, or the first; "*": of
    every role), and `tokens_per_text`.

    Also returned: `n` masked tokens, `texts`, `bad` samples by reason, and the protocol. Texts above
    the context are cut.
    """
    ready(model, source, role=role, rate=rate)
    role = role_of("masked_tokens", source, role)
    tokenizer = model.tokenizer
    bad = Counter[str]()
    texts = [
        text
        for some in read_texts(source, lambda sample: texts_of(sample, role), bad)
        for text in some
    ]
    view = MaskedTextView(
        tokenizer=tokenizer, rate=rate, whole_word=whole_word, kept=0.0, random=0.0
    )
    steps = Steps(progress, len(texts))
    masked: list[np.ndarray] = []
    right = 0
    for start in range(0, len(texts), batch_size):
        some = [
            view.masked(ids, generator(seed, "masked", start + number))
            for number, ids in enumerate(tokenizer.encode(texts[start : start + batch_size]))
        ]
        ids, lengths = pad_batch([each.ids for each in some], tokenizer)
        marks = torch.full_like(ids, -1)
        for row, each in zip(marks, some, strict=True):
            row[: len(each.marks)] = torch.tensor(each.marks)
        chosen = marks >= 0
        best = model.masked_logits(ids, lengths)[chosen].argmax(-1)
        masked.append(marks[chosen].numpy())
        right += int((best == marks[chosen]).sum())
        steps.add(len(some))
    wanted = np.concatenate(masked)
    if not len(wanted):
        raise InputError(
            f"no token of {source.name!r} was masked; give more texts or a larger rate"
        )
    protocol = protocol_of(
        "masked_tokens",
        source,
        model,
        field=role,
        rule="the likeliest token of each masked place",
        options=(
            f"rate={rate:g}",
            f"seed={seed}",
            *(["whole_word"] if whole_word else []),
            f"tokenizer={tokenizer.fingerprint[:12]}",
        ),
    )
    return {
        "accuracy": right / len(wanted),
        "chance_accuracy": float(np.bincount(wanted).max() / len(wanted)),
        "tokens_per_text": float(np.mean([len(tokenizer.ids(text)) for text in texts])),
        "n": len(wanted),
        "texts": len(texts),
        "bad": dict(bad),
    } | describe(protocol, model)
