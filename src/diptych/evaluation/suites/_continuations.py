"""Texts that a language model writes after the prompts of a source, in the format of a task
(`data.tasks`)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diptych.data.sample import BadSample, Sample, Source
from diptych.data.tasks import Task
from diptych.errors import InputError
from diptych.evaluation.embed import Steps, read_texts
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.rng import generator
from diptych.spec import parse


@dataclass(frozen=True, kw_only=True)
class Format:
    """How prompts are made of samples: the task, the roles of texts and references, and the numbers
    of examples before a prompt, of tokens that open texts begin with, and of tokens to generate.

    Without a role of references, an open text is cut behind its first `prefix` tokens, and what
    follows is the reference.
    """

    task: Task
    role: str | None = None
    reference: str | None = None
    shots: int = 0
    prefix: int = 16
    length: int = 64

    def __post_init__(self) -> None:
        if min(self.prefix, self.length) < 1 or self.shots < 0:
            raise InputError(
                f"prefix is {self.prefix}, length {self.length}, shots {self.shots}; the first two must be at least 1, "
                "shots at least 0"
            )

    @property
    def cuts(self) -> bool:
        """Whether texts are cut into prompt and reference."""
        return self.task.name == "open" and self.reference is None


@dataclass(frozen=True, kw_only=True)
class Item:
    """A prompt with the key of its sample, and the reference texts if there are any."""

    key: str
    prompt: str
    references: tuple[str, ...] = ()


def check(form: Format, source: Source, examples: Source | None) -> None:
    """Raise InputError for roles that a source lacks, and examples that are missing or not asked
    for."""
    role_of(form.task.name, source, form.role)
    if form.reference is not None:
        role_of(form.task.name, source, form.reference)
    if (form.shots > 0) != (examples is not None):
        raise InputError(
            f"{form.shots} examples were asked for "
            + ("and no source of them given" if examples is None else "beside a source of them")
            + "; give the number of shots and their source together"
        )
    if form.shots and form.reference is None:
        raise InputError(
            "examples need references; name the role of the references, such as summary"
        )
    if examples is not None:
        role_of(form.task.name, examples, form.role)
        role_of(form.task.name, examples, form.reference)


def items(
    model: Any,
    source: Source,
    form: Format,
    *,
    examples: Source | None = None,
    seed: int = 0,
    bad: Counter[str],
) -> list[Item]:
    """Return the prompts of a source. Damage, texts without a reference or too short to be cut, and
    prompts that leave too little of the context are counted in `bad`; raises InputError if nothing
    is left."""
    check(form, source, examples)
    role = role_of(form.task.name, source, form.role)
    tokenizer = model.tokenizer
    room = tokenizer.context - len(tokenizer.before) - form.length
    shown = _examples(examples, form, seed) if examples is not None else []

    def item(sample: Sample) -> Item:
        """Return the prompt of a sample."""
        text = texts_of(sample, role)[0]
        references: tuple[str, ...] = ()
        if form.cuts:
            ids = tokenizer.ids(text)
            if len(ids) < form.prefix:
                raise BadSample("short", f"{sample.key} has {len(ids)} tokens")
            text = tokenizer.decode(ids[: form.prefix])
            after = tokenizer.decode(ids[form.prefix : form.prefix + form.length])
            references = (after,) if after.strip() else ()
        elif form.reference is not None:
            references = tuple(texts_of(sample, form.reference))
        prompt = form.task.prompt(text, shown)
        if len(tokenizer.ids(prompt)) > room:
            raise BadSample("long", f"the prompt of {sample.key} leaves too little of the context")
        return Item(key=sample.key, prompt=prompt, references=references)

    try:
        return read_texts(source, item, bad)
    except InputError as error:
        if not bad["long"]:
            raise
        raise InputError(
            f"{error}: {bad['long']} prompts leave less than {form.length} of the {tokenizer.context} tokens of "
            "the model's context; lower the length or the number of shots"
        ) from None


def _examples(source: Source, form: Format, seed: int) -> list[tuple[str, str]]:
    """Return `shots` different examples, the same for all prompts."""
    role = role_of(form.task.name, source, form.role)
    found: list[tuple[str, str]] = []
    assert form.reference is not None
    for index in generator(seed, "shots").permutation(len(source)).tolist():
        try:
            sample = source[index]
            found.append((texts_of(sample, role)[0], texts_of(sample, form.reference)[0]))
        except BadSample:
            continue
        if len(found) == form.shots:
            return found
    raise InputError(
        f"source {source.name!r} has {len(found)} examples with a reference, {form.shots} were asked for"
    )


def continued(
    model: Any,
    prompts: Sequence[Item],
    form: Format,
    strategy: str,
    *,
    seed: int = 0,
    min_tokens: int = 0,
    batch_size: int = 64,
    steps: Steps | None = None,
) -> list[str]:
    """Return what a model writes after each prompt, up to the end that the task knows."""
    parsed = parse(strategy)
    found: list[str] = []
    for start in range(0, len(prompts), batch_size):
        some = prompts[start : start + batch_size]
        texts = model.generate(
            [item.prompt for item in some],
            strategy=parsed.name,
            max_tokens=form.length,
            min_tokens=min_tokens,
            seed=seed + start,
            **parsed.options,
        )
        found += [form.task.cut(text) for text in texts]
        if steps is not None:
            steps.add(len(some))
    return found
