"""Continuation: what a language model writes in a task, by decoding strategy, compared with
references.

Tasks are formats of prompts (`data.tasks`): open-ended text, summaries, translations, code. For each
strategy: ROUGE-1, -2 and -L (`_rouge`), BLEU-4 as of captions, `exact`, the share of texts that
equal a reference, and `words`, the mean length. Texts are not run: for code, `diptych generate --task
code --out` writes the file that HumanEval's own program scores. Chance gives every prompt the
reference of the next one, in the order of keys.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from diptych.data.sample import Source
from diptych.data.tasks import task as task_of
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps
from diptych.evaluation.protocol import data_of, describe, protocol_of
from diptych.evaluation.suites import _rouge
from diptych.evaluation.suites._continuations import Format, check, continued, items
from diptych.evaluation.suites._shots import number_of
from diptych.evaluation.suites.captions import LONGEST, bleu
from diptych.models.strategies import strategy_of

card = {
    "title": "Continuations in a task, compared with references, by decoding strategy",
    "needs": ["texts"],
    "abilities": ["generate", "tokenizer"],
}


def ready(
    model: Any,
    source: Source,
    *,
    task: str = "open",
    role: str | None = None,
    reference: str | None = None,
    shots: int | Sequence[int] = 0,
    train: str | Source | None = None,
    prefix: int = 16,
    length: int = 64,
    strategies: Sequence[str] = (),
) -> None:
    """Raise InputError for an unknown task or strategy, roles that the source lacks, and a task
    without references."""
    form = _form(task, role, reference, shots, prefix, length)
    check(form, source, _opened(train))
    if reference is None and not form.cuts:
        raise InputError(
            f"{form.task.name} is compared with references; name their role, as --reference summary"
        )
    for spec in strategies:
        strategy_of(spec)


def continuation(
    model: Any,
    source: Source,
    *,
    task: str = "open",
    role: str | None = None,
    reference: str | None = None,
    shots: int | Sequence[int] = 0,
    train: str | Source | None = None,
    prefix: int = 16,
    length: int = 64,
    strategies: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `by_strategy`: rouge_1, rouge_2, rouge_l, bleu4, exact and words.

    `task` is a spec of `data.tasks`. `shots` examples from the source `train` stand before each
    prompt. Without `strategies` they are greedy and the one published for the task. The first seed
    draws examples and samples. Also returned: `n` prompts, `written`, the first ten texts by key and
    strategy, `bad` samples by reason, and the protocol.
    """
    form = _form(task, role, reference, shots, prefix, length)
    strategies = tuple(strategies) or ("greedy", form.task.strategy)
    examples = _opened(train)
    bad: Counter[str] = Counter()
    prompts = items(model, source, form, examples=examples, seed=seeds[0], bad=bad)
    kept = [item for item in prompts if item.references]
    bad["no-reference"] += len(prompts) - len(kept)
    if not kept:
        raise InputError(f"no text of {source.name!r} goes on behind its prompt; lower the prefix")
    steps = Steps(progress, len(strategies) * len(kept))
    right = [item.references for item in kept]
    found = {"chance": scores([right[(at + 1) % len(right)][0] for at in range(len(right))], right)}
    written: dict[str, dict[str, str]] = {}
    for spec in strategies:
        texts = continued(
            model, kept, form, spec, seed=seeds[0], batch_size=batch_size, steps=steps
        )
        found[spec] = scores(texts, right)
        written[spec] = {item.key: text for item, text in zip(kept[:10], texts, strict=False)}
    options = (
        f"task={task}",
        f"shots={form.shots}",
        f"prefix={prefix}",
        f"length={length}",
        f"strategies={'+'.join(strategies)}",
        f"seed={seeds[0]}",
        f"tokenizer={model.tokenizer.fingerprint[:12]}",
        *(() if examples is None else (f"examples={data_of(examples)}",)),
    )
    protocol = protocol_of(
        "continuation",
        source,
        model,
        field=f"{role or 'caption'} to {reference or 'what follows'}",
        prompts=(form.task.template,),
        rule="ROUGE by words in lower case without stemming; BLEU-4 as of captions",
        options=options,
    )
    return {
        "n": len(kept),
        "by_strategy": found,
        "written": written,
        "bad": {reason: count for reason, count in bad.items() if count},
    } | describe(protocol, model)


def scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the numbers of texts with one reference or more each.

    >>> scores(["a red fox"], [["a red fox", "a fox"]])["exact"]
    1.0
    """
    exact = [
        any(text.split() == each.split() for each in right)
        for text, right in zip(texts, references, strict=True)
    ]
    lengths = [len(text.split()) for text in texts]
    return {
        **_rouge.report(texts, references),
        f"bleu{LONGEST}": bleu(texts, references)[-1],
        "exact": sum(exact) / len(texts),
        "words": sum(lengths) / len(texts),
    }


def _form(
    task: str,
    role: str | None,
    reference: str | None,
    shots: int | Sequence[int],
    prefix: int,
    length: int,
) -> Format:
    return Format(
        task=task_of(task),
        role=role,
        reference=reference,
        shots=number_of(shots, "a continuation"),
        prefix=prefix,
        length=length,
    )


def _opened(source: str | Source | None) -> Source | None:
    if not isinstance(source, str):
        return source
    from diptych.data.sources import open_source

    return open_source(source)
