"""Degeneration: how much the texts that a language model generates repeat themselves, by decoding
strategy.

    distinct_n   different n-grams / all n-grams, different within each text, both summed over the texts
    rep_n        1 - distinct_n
    diversity    distinct_2 · distinct_3 · distinct_4

Each text of the source provides a prompt, its first `prefix` tokens. `length` tokens are generated
after it, with the end token suppressed, and compared with the `length` tokens that follow in the
source. n-grams are of words between spaces, in lower case. Greedy and beam search of a small model
repeat themselves, sampling does not.

Source: Welleck et al. 2020 (rep-n); Su et al. 2022 (diversity). Their program leaves out each
text's last n-gram.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, read_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.models.strategies import strategy_of
from diptych.spec import parse

card = {
    "title": "Degeneration of generated texts, by decoding strategy",
    "needs": ["texts"],
    "abilities": ["generate", "tokenizer"],
}

_RULE = (
    "first text of each sample; words between blanks, lower case; no end before the asked length"
)


def ready(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    prefix: int = 16,
    length: int = 64,
    strategies: Sequence[str] = ("greedy", "sample"),
) -> None:
    """Raise InputError for a role that the source lacks, an unknown strategy, and lengths above the
    model's context."""
    role_of("degeneration", source, role)
    for spec in strategies:
        strategy_of(parse(spec).name, parse(spec).options)
    if prefix < 1 or length < 4:
        raise InputError(
            f"prefix is {prefix}, length {length}; they must be at least 1 and 4 tokens"
        )
    room = getattr(model.tokenizer, "context", math.inf) - len(model.tokenizer.before)
    if prefix + length > room:
        raise InputError(
            f"prefix {prefix} and length {length} exceed the {room} tokens that {model.name} holds"
        )


def degeneration(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    prefix: int = 16,
    length: int = 64,
    strategies: Sequence[str] = ("greedy", "sample"),
    seeds: Sequence[int] = (0,),
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `by_strategy`: diversity and rep_2, rep_3, rep_4 (see `report`) of each strategy and
    of the source's own `text`.

    A strategy is named with its options, `sample:top_p=0.9:temperature=0.8`; the first seed sets
    its random numbers. Also returned: `n` prompts, `bad` samples (those whose text is too short) by
    reason, and the protocol.
    """
    ready(model, source, role=role, prefix=prefix, length=length, strategies=strategies)
    role = role_of("degeneration", source, role)
    bad = Counter()
    tokenizer = model.tokenizer

    def cut(sample: Sample) -> tuple[str, str]:
        """Return the prompt of a sample, and the text that follows it there."""
        ids = tokenizer.ids(texts_of(sample, role)[0])
        if len(ids) < prefix + length:
            raise BadSample("short", f"{sample.key} has {len(ids)} tokens")
        return tokenizer.decode(ids[:prefix]), tokenizer.decode(ids[prefix : prefix + length])

    pairs = read_texts(source, cut, bad)
    prompts = [prompt for prompt, _ in pairs]
    found = {"text": report([words(text) for _, text in pairs])}
    steps = Steps(progress, len(strategies) * len(prompts))
    for spec in strategies:
        parsed = parse(spec)
        texts = []
        for start in range(0, len(prompts), batch_size):
            some = prompts[start : start + batch_size]
            texts += model.generate(
                some,
                strategy=parsed.name,
                max_tokens=length,
                min_tokens=length,
                seed=seeds[0] + start,
                **parsed.options,
            )
            steps.add(len(some))
        found[spec] = report([words(text) for text in texts])
    cuts = (f"prefix={prefix}", f"length={length}", f"tokenizer={tokenizer.fingerprint[:12]}")
    options = (*cuts, f"strategies={'+'.join(strategies)}", f"seed={seeds[0]}")
    protocol = protocol_of("degeneration", source, model, field=role, rule=_RULE, options=options)
    return {"n": len(prompts), "by_strategy": found, "bad": dict(bad)} | describe(protocol, model)


def words(text: str) -> list[str]:
    """Split a text into the words that n-grams consist of.

    >>> words("A red  fox.")
    ['a', 'red', 'fox.']
    """
    return text.lower().split()


def report(texts: Sequence[Sequence[Hashable]]) -> dict[str, float]:
    """Return `diversity`, `rep_2`, `rep_3` and `rep_4` of texts as lists of tokens.

    >>> report(["a b c a b c a b c d".split()])["diversity"]
    0.126984...
    """
    return {"diversity": diversity(texts)} | {f"rep_{n}": 1 - distinct(texts, n) for n in (2, 3, 4)}


def diversity(texts: Sequence[Sequence[Hashable]]) -> float:
    """Return the product of distinct_2, distinct_3 and distinct_4: 1 without repetition, near 0 in
    a loop."""
    return math.prod(distinct(texts, n) for n in (2, 3, 4))


def distinct(texts: Sequence[Sequence[Hashable]], n: int) -> float:
    """Return the number of different n-grams of texts, different within each, divided by that of
    all n-grams.

    Raises InputError if no text has n tokens.
    """
    grams = [[tuple(text[at : at + n]) for at in range(len(text) - n + 1)] for text in texts]
    total = sum(map(len, grams))
    if not total:
        raise InputError(f"none of the {len(texts)} texts has {n} words; generate longer ones")
    return sum(len(set(some)) for some in grams) / total
