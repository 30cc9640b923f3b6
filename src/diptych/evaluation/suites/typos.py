"""Similarity of sentences with typos: the correlation of `sts` by kind and by rate of typos.

Both texts of a pair get a typo in each word of four letters or more with probability `rate`
(`data.typos.misspell`), of one kind at a time. The correlation without typos is `spearman`, its means
over kinds and rates `spearman_typos`; `by_typos` has a row for each kind, with the rates as columns.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from diptych.data.sample import Source
from diptych.data.typos import TYPOS, misspell
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, Texts, embed_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites import sts
from diptych.rng import generator

card = {
    "title": "Similarity of sentences with typos, by kind and rate",
    "needs": ["texts", "labels"],
    "abilities": ["embed_texts"],
}

RATES = (0.1, 0.2, 0.4)


def ready(
    model: Any,
    source: Source,
    *,
    roles: Sequence[str] | None = None,
    score: str | None = None,
    kinds: Sequence[str] = TYPOS,
    rates: Sequence[float] = RATES,
) -> None:
    """Raise InputError for roles and labels that the source lacks, for kinds that do not exist and
    rates that are no shares."""
    sts.ready(model, source, roles=roles, score=score)
    for kind in kinds:
        if kind not in TYPOS:
            raise unknown("kind of typos", kind, TYPOS)
    if not kinds or not rates or not all(0 < rate <= 1 for rate in rates):
        raise InputError(
            f"typos of kinds {', '.join(kinds) or 'none'} at rates {', '.join(map(str, rates)) or 'none'} make no "
            "curve; name a kind, and rates above 0 and up to 1"
        )


def typos(
    model: Any,
    source: Source,
    *,
    roles: Sequence[str] | None = None,
    score: str | None = None,
    kinds: Sequence[str] = TYPOS,
    rates: Sequence[float] = RATES,
    seeds: Sequence[int] = (0,),
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `spearman` and `spearman_typos`, with `pearson` alike, and the curve `by_typos`.

    `roles` and `score` are those of `sts`. `kinds` are kinds of typos, `rates` the shares of words
    with one, `seeds` those of the draws, over which all is averaged. Also returned: `n` pairs, `bad`
    samples by reason, and the protocol. Chance is 0.
    """
    ready(model, source, roles=roles, score=score, kinds=kinds, rates=rates)
    bad = Counter[str]()
    pairs = sts.pairs_of(source, roles, score, bad)
    values = np.array([value for *_, value in pairs])
    draws = [(kind, rate, seed) for kind in kinds for rate in rates for seed in seeds]
    texts = Texts(exact=True)
    plain = _numbers(texts, pairs, None)
    noisy = {draw: _numbers(texts, pairs, draw) for draw in draws}
    steps = Steps(progress, len(texts))
    vectors = embed_texts(model, texts.written, batch_size=batch_size, steps=steps)
    clean = _measured(vectors, plain, values)
    curves = {draw: _measured(vectors, noisy[draw], values) for draw in draws}
    table = {
        kind: {
            f"{rate:g}": float(np.mean([curves[kind, rate, seed]["spearman"] for seed in seeds]))
            for rate in rates
        }
        for kind in kinds
    }
    found: dict[str, float] = {}
    for name, value in clean.items():
        mean = float(np.mean([curve[name] for curve in curves.values()]))
        found |= {name: value, f"chance_{name}": 0.0}
        found |= {f"{name}_typos": mean, f"chance_{name}_typos": 0.0}
    named = sts.names_of(source, roles, score)
    protocol = protocol_of(
        "typos",
        source,
        model,
        field=named[2],
        rule="cosine of the two texts with typos in both, to 1e-6",
        options=(
            f"roles={named[0]},{named[1]}",
            f"kinds={'+'.join(kinds)}",
            f"rates={'+'.join(f'{rate:g}' for rate in rates)}",
            f"seeds={'+'.join(map(str, seeds))}",
        ),
    )
    result = {"n": len(values)} | found | {"by_typos": table, "bad": dict(bad)}
    return result | describe(protocol, model)


def _numbers(
    texts: Texts, pairs: Sequence[tuple[str, str, float]], draw: tuple[str, float, int] | None
) -> np.ndarray:
    """The numbers (N, 2) of the texts of pairs, with typos of a kind, a rate and a seed."""
    found = []
    for number, (*both, _) in enumerate(pairs):
        written: list[str] = list(both)  # type: ignore[arg-type]
        if draw is not None:
            kind, rate, seed = draw
            written = [
                misspell(
                    text, [kind], rate, generator(seed, "typos", kind, number, side), min_typos=0
                )
                for side, text in enumerate(written)
            ]
        found.append([texts.add(text) for text in written])
    return np.array(found)


def _measured(vectors: torch.Tensor, numbers: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Pearson's and Spearman's correlation of pairs."""
    first, second = numbers.T.tolist()
    found = sts.report(vectors[first].numpy(), vectors[second].numpy(), values)
    return {name: found[name] for name in ("pearson", "spearman")}
