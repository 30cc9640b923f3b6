"""Degeneration: how much the texts that a language model generates repeat themselves, by decoding
strategy, and how well they continue their prompts.

    distinct_n   different n-grams / all n-grams, different within each text, both summed over the texts
    rep_n        1 - distinct_n
    diversity    distinct_2 · distinct_3 · distinct_4
    coherence    mean over texts of the mean over tokens of log p(token | prompt, tokens before),
                 by a second model, the scorer

Each text of the source provides a prompt, its first `prefix` tokens. `length` tokens are generated
after it, with the end token suppressed, and compared with the `length` tokens that follow in the
source; without `references` a text needs the prompt alone. n-grams are of words between spaces, in
lower case, or of characters, for languages that are written without spaces. Greedy and beam search
of a small model repeat themselves, sampling does not. A scorer finds repetition coherent, so
coherence says something only beside diversity.

`mauve` is a function of your own, `(texts, references) -> number`, such as that of mauve-text.

Source: Welleck et al. 2020 (rep-n); Su et al. 2022 (diversity, coherence). Their program leaves out
each text's last n-gram (`drop_last`).
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Literal

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, read_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.methods.abilities import require
from diptych.models.strategies import strategy_of
from diptych.spec import parse

card = {
    "title": "Degeneration of generated texts, by decoding strategy",
    "needs": ["texts"],
    "abilities": ["generate", "tokenizer"],
}

Unit = Literal["word", "character"]
Mauve = Callable[[Sequence[str], Sequence[str]], float]
_RULES = {
    "word": "first text of each sample; words between blanks, lower case; no end before the asked length",
    "character": "first text of each sample; characters, lower case; no end before the asked length",
}


def ready(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    prefix: int = 16,
    length: int = 64,
    strategies: Sequence[str] = ("greedy", "sample"),
    unit: Unit = "word",
    references: bool = True,
    scorer: Any = None,
    mauve: Mauve | None = None,
) -> None:
    """Raise InputError for a role that the source lacks, an unknown strategy or unit, lengths above
    the model's context, a scorer that is no language model, and a `mauve` without references."""
    role_of("degeneration", source, role)
    for spec in strategies:
        strategy_of(spec)
    if prefix < 1 or length < 4:
        raise InputError(
            f"prefix is {prefix}, length {length}; they must be at least 1 and 4 tokens"
        )
    room = getattr(model.tokenizer, "context", math.inf) - len(model.tokenizer.before)
    if prefix + length > room:
        raise InputError(
            f"prefix {prefix} and length {length} exceed the {room} tokens that {model.name} holds"
        )
    if unit not in _RULES:
        raise unknown("unit of n-grams", unit, _RULES)
    if mauve is not None and not references:
        raise InputError("mauve compares with the references; leave out one of the two")
    if scorer is not None:
        by = loaded(scorer)
        for ability in ("log_prob", "tokenizer"):
            require(by, ability, "the scorer of degeneration")


def degeneration(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    prefix: int = 16,
    length: int = 64,
    strategies: Sequence[str] = ("greedy", "sample"),
    unit: Unit = "word",
    references: bool = True,
    scorer: Any = None,
    mauve: Mauve | None = None,
    seeds: Sequence[int] = (0,),
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `by_strategy`: diversity and rep_2, rep_3, rep_4 (see `report`) of each strategy and
    of the source's own `text`; `coherence` with a `scorer`, a model or its spec; `mauve`.

    A strategy is named with its options, `sample:top_p=0.9:temperature=0.8`; the first seed sets
    its random numbers. Also returned: `n` prompts, `bad` samples (those whose text is too short) by
    reason, and the protocol.
    """
    ready(
        model,
        source,
        role=role,
        prefix=prefix,
        length=length,
        strategies=strategies,
        unit=unit,
        references=references,
        scorer=scorer,
        mauve=mauve,
    )
    role = role_of("degeneration", source, role)
    bad = Counter()
    tokenizer = model.tokenizer
    needed = prefix + length if references else prefix

    def cut(sample: Sample) -> tuple[str, str]:
        """Return the prompt of a sample, and the text that follows it there."""
        ids = tokenizer.ids(texts_of(sample, role)[0])
        if len(ids) < needed:
            raise BadSample("short", f"{sample.key} has {len(ids)} tokens")
        return tokenizer.decode(ids[:prefix]), tokenizer.decode(ids[prefix : prefix + length])

    pairs = read_texts(source, cut, bad)
    prompts = [prompt for prompt, _ in pairs]
    own = [text for _, text in pairs]
    by = None if scorer is None else loaded(scorer)
    written = {"text": own} if references else {}
    steps = Steps(progress, len(strategies) * len(prompts))
    for spec in strategies:
        parsed = parse(spec)
        written[spec] = []
        for start in range(0, len(prompts), batch_size):
            some = prompts[start : start + batch_size]
            written[spec] += model.generate(
                some,
                strategy=parsed.name,
                max_tokens=length,
                min_tokens=length,
                seed=seeds[0] + start,
                **parsed.options,
            )
            steps.add(len(some))
    split = words if unit == "word" else characters
    found: dict[str, dict[str, float]] = {}
    for name, texts in written.items():
        found[name] = report([split(text) for text in texts])
        if by is not None:
            found[name]["coherence"] = coherence(by, prompts, texts, batch_size=batch_size)
        if mauve is not None and name != "text":
            found[name]["mauve"] = float(mauve(texts, own))
    cuts = (f"prefix={prefix}", f"length={length}", f"tokenizer={tokenizer.fingerprint[:12]}")
    options = (*cuts, f"strategies={'+'.join(strategies)}", f"seed={seeds[0]}")
    if by is not None:
        options = (*options, f"scorer={by.identity[:12]}")
    if not references:
        options = (*options, "references=false")
    protocol = protocol_of(
        "degeneration", source, model, field=role, rule=_RULES[unit], options=options
    )
    return {"n": len(prompts), "by_strategy": found, "bad": dict(bad)} | describe(protocol, model)


def loaded(model: Any) -> Any:
    """Return a model, loaded if its spec is given."""
    if not isinstance(model, str | Path):
        return model
    from diptych.methods.store import load

    return load(str(model))


def coherence(
    scorer: Any, prompts: Sequence[str], texts: Sequence[str], *, batch_size: int = 64
) -> float:
    """Return the mean over texts of log p a token of each, given its prompt, by a scorer with its
    own tokens; texts without a token are left out.

    Raises InputError for a text that exceeds the scorer's context with its prompt.
    """
    values = coherences(scorer, prompts, texts, batch_size=batch_size)
    if not values:
        raise InputError("none of the texts has a token, and coherence is a mean over tokens")
    return sum(values) / len(values)


def coherences(
    scorer: Any, prompts: Sequence[str], texts: Sequence[str], *, batch_size: int = 64
) -> list[float]:
    """Return log p a token of each text that has one, as in `coherence`."""
    counts = [len(scorer.tokenizer.ids(text)) for text in texts]
    kept = [at for at, count in enumerate(counts) if count]
    if not kept:
        return []
    total = scorer.log_prob(
        [texts[at] for at in kept],
        [prompts[at] for at in kept],
        end=False,
        batch_size=batch_size,
    )
    return [float(value) / counts[at] for value, at in zip(total, kept, strict=True)]


def words(text: str) -> list[str]:
    """Split a text into the words that n-grams consist of.

    >>> words("A red  fox.")
    ['a', 'red', 'fox.']
    """
    return text.lower().split()


def characters(text: str) -> list[str]:
    """Split a text into its characters without blanks.

    >>> characters("猫 A")
    ['猫', 'a']
    """
    return list("".join(text.lower().split()))


def report(texts: Sequence[Sequence[Hashable]], *, drop_last: bool = False) -> dict[str, float]:
    """Return `diversity`, `rep_2`, `rep_3` and `rep_4` of texts as lists of tokens.

    >>> report(["a b c a b c a b c d".split()])["diversity"]
    0.126984...
    """
    shares = {n: distinct(texts, n, drop_last=drop_last) for n in (2, 3, 4)}
    rep = {f"rep_{n}": 1 - share for n, share in shares.items()}
    return {"diversity": math.prod(shares.values())} | rep


def diversity(texts: Sequence[Sequence[Hashable]], *, drop_last: bool = False) -> float:
    """Return the product of distinct_2, distinct_3 and distinct_4: 1 without repetition, near 0 in
    a loop."""
    return report(texts, drop_last=drop_last)["diversity"]


def distinct(texts: Sequence[Sequence[Hashable]], n: int, *, drop_last: bool = False) -> float:
    """Return the number of different n-grams of texts, different within each, divided by that of
    all n-grams. `drop_last` leaves out the last n-gram of each text, as the published program does.

    Raises InputError if no text has n tokens.
    """
    last = n if drop_last else n - 1
    grams = [[tuple(text[at : at + n]) for at in range(len(text) - last)] for text in texts]
    total = sum(map(len, grams))
    if not total:
        raise InputError(f"none of the {len(texts)} texts has {n} words; generate longer ones")
    return sum(len(set(some)) for some in grams) / total
