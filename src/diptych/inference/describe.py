"""Texts about the classes, the images or the texts of a source, by a writer (`data.answers`).

    Templates, Prepared, World      templates, a file of answers, what a world knows
    Generating                      any model that generates: a language model, or one of images
    Program                         a command that reads questions and writes answers as JSON lines

`card` records where the texts come from.
"""

import base64
import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diptych
from diptych.data import worlds
from diptych.data.answers import Described, Question
from diptych.data.clips import is_clip
from diptych.data.descriptions import read_lists, templated
from diptych.data.held import held
from diptych.data.sample import BadSample, Source
from diptych.data.sources.captioned import findings
from diptych.data.sources.card import card_of
from diptych.data.sources.subset import class_label
from diptych.data.templates import written
from diptych.data.worlds import WorldSource
from diptych.errors import InputError, brief
from diptych.methods.abilities import require
from diptych.rng import torch_seed
from diptych.spec import parse, split_specs

_MARK = "{}"


def of_classes(source: Source, label: str | None, prompt: str) -> list[Question]:
    """A question about each class of a label; `{}` in the prompt is its name."""
    label = class_label(source, label)
    names = source.schema()[f"labels.{label}"].classes
    if not names:
        raise InputError(
            f"the classes of label {label!r} of {source.name} have no names; give names"
        )
    return [
        Question(key=name, prompt=prompt.replace(_MARK, written(name))) for name in findings(names)
    ]


def of_images(source: Source, prompt: str) -> list[Question]:
    """A question about the image `main` of each sample; `{}` in the prompt is its first caption.

    Samples without an image, or that cannot be read, are left out.
    """
    found = []
    for at in range(len(source)):
        try:
            sample = source[at]
        except BadSample:
            continue
        if "main" not in sample.images:
            continue
        texts = tuple(sample.captions())
        filled = prompt.replace(_MARK, texts[0] if texts else "")
        found.append(
            Question(key=sample.key, prompt=filled, image=sample.images["main"], texts=texts)
        )
    if not found:
        raise InputError(
            f"no sample of {source.name} has an image to describe; name another source"
        )
    return found


def of_texts(source: Source, role: str, prompt: str) -> list[Question]:
    """A question about each text of a role; `{}` in the prompt is the text. Further texts of a sample
    have the keys KEY#2, …."""
    if _MARK not in prompt:
        raise InputError("the prompt holds no {}, where each text goes; write one into it")
    found = []
    for at in range(len(source)):
        try:
            sample = source[at]
        except BadSample:
            continue
        for number, text in enumerate(sample.captions(role), 1):
            key = sample.key if number == 1 else f"{sample.key}#{number}"
            found.append(Question(key=key, prompt=prompt.replace(_MARK, text), texts=(text,)))
    if not found:
        raise InputError(
            f"no sample of {source.name} has a text of role {role!r}; name another role"
        )
    return found


class Templates:
    """Fills the names of classes, or texts, into templates.

    >>> Templates("a {} | one {}")([Question(key="cat", prompt="cat")], 0)
    ['a cat\\none cat']
    """

    def __init__(self, spec: str):
        self.name = f"templates {spec}"
        self._say = templated(spec)

    def __call__(self, questions: Sequence[Question], attempt: int) -> list[str]:
        return ["\n".join(self._say(question.prompt)) for question in questions]


class Prepared:
    """Answers that a file has by key, {"cat": ["a cat", …], …}; none for other keys."""

    def __init__(self, path: str):
        self.name = f"file {Path(path).name}"
        self._texts = read_lists(path)

    def __call__(self, questions: Sequence[Question], attempt: int) -> list[str]:
        return ["\n".join(self._texts.get(question.key, ())) for question in questions]


class World:
    """What a world knows: texts of its classes (`texts_of`), or the captions of its images.

    Raises InputError for a source that is no world, and a world that writes no texts of classes.
    """

    def __init__(self, source: Source, label: str | None, each: int | None, seed: int):
        if not isinstance(source, WorldSource):
            raise InputError(f"{source.name} is no world; name one, or another writer with --by")
        if label is not None and not hasattr(source.world, "texts_of"):
            raise InputError(
                f"the world {source.world.name} writes no texts of classes; use modalities"
            )
        self.name = f"world {source.name} each={each or 1} seed={seed}"
        self._world: Any = source.world
        self._how = (label, each or 1, seed)

    def __call__(self, questions: Sequence[Question], attempt: int) -> list[str]:
        label, each, seed = self._how
        if label is None:
            return ["\n".join(question.texts) for question in questions]
        return ["\n".join(self._world.texts_of(label, q.key, each, seed)) for q in questions]


class Generating:
    """A model that generates: it continues the prompt, or writes about the image or the clip.

    `settings` are those of its `generate`. Questions whose image cannot be read have an empty answer.
    """

    def __init__(self, model: Any, spec: str, seed: int = 0, **settings: Any):
        require(model, "generate", "diptych data describe", spec)
        self.reads_images = hasattr(model, "preprocess")
        options = "".join(f" {name}={value}" for name, value in sorted(settings.items()))
        self.name = f"model {spec} {model.identity[:12]} seed={seed}{options}"
        self._model = model
        self._seed = seed
        self._settings = settings

    def __call__(self, questions: Sequence[Question], attempt: int) -> list[str]:
        seed = torch_seed(self._seed, "describe", questions[0].key, attempt)
        settings = {"strategy": "sample", **self._settings, "seed": seed}
        if not self.reads_images:
            return self._model.generate([question.prompt for question in questions], **settings)
        answers = dict.fromkeys(range(len(questions)), "")
        images = {}
        for at, question in enumerate(questions):
            try:
                assert question.image is not None, "questions about images have one"
                image = question.image
                images[at] = held(image) if is_clip(image) else image.decode()
            except BadSample:
                continue
        if images:
            asked = [questions[at].prompt for at in images]
            prompts = asked if any(asked) else None
            texts = self._model.generate(list(images.values()), prompts, **settings)
            answers |= dict(zip(images, texts, strict=True))
        return list(answers.values())


class Program:
    """A command that is started for some questions at a time. It reads a JSON object a line from
    stdin, with `key`, `prompt`, `attempt` and, of an image, `image` (its file in base64), and writes
    for each a line with {"answer": "…"} to stdout, in order.

    Raises InputError with its last words if it fails or answers otherwise.
    """

    def __init__(self, command: str):
        self.name = f"program {command}"
        self.command = shlex.split(command)
        if not self.command:
            raise InputError("cmd: names no program; write --by 'cmd:python my_writer.py'")

    def __call__(self, questions: Sequence[Question], attempt: int) -> list[str]:
        sent = "".join(json.dumps(self._asked(each, attempt)) + "\n" for each in questions)
        try:
            done = subprocess.run(
                self.command,
                input=sent,
                capture_output=True,
                text=True,
                encoding="utf-8",
                check=False,
            )
        except OSError as error:
            raise InputError(f"{self.name} cannot be started ({brief(error)}); check it") from None
        if done.returncode:
            said = brief(done.stderr.strip()[-120:])
            raise InputError(f"{self.name} ended with {done.returncode} ({said}); run it by hand")
        found = done.stdout.splitlines()
        if len(found) != len(questions):
            raise InputError(
                f"{self.name} wrote {len(found)} lines for {len(questions)} questions; write one for each"
            )
        return [self._answer(line) for line in found]

    def _asked(self, question: Question, attempt: int) -> dict[str, Any]:
        asked = {"key": question.key, "prompt": question.prompt, "attempt": attempt}
        if question.image is None:
            return asked
        try:
            data = question.image.read()
        except BadSample:
            return asked
        return asked | {"image": base64.b64encode(data).decode("ascii")}

    def _answer(self, line: str) -> str:
        try:
            answer = json.loads(line)["answer"]
        except (ValueError, KeyError, TypeError):
            answer = None
        if not isinstance(answer, str):
            raise InputError(
                f'{self.name} wrote {brief(line, 60)!r}; write lines such as {{"answer": "a red cat"}}'
            )
        return answer


def card(spec: str, of: str, prompt: str, writer: str, found: Described) -> dict[str, Any]:
    """The record of a file of texts: sources with their licences, writer, prompt and numbers."""
    return {
        "sources": [_licensed(part) for part in split_specs(spec)],
        "described": of,
        "writer": writer,
        "prompt": prompt,
        "texts": sum(map(len, found.texts.values())),
        "things": len(found.texts),
        "lacking": found.lacking,
        "invalid": dict(found.invalid),
        "diptych": diptych.__version__,
    }


def _licensed(spec: str) -> Mapping[str, str | None]:
    """The licence of a source, where it is known."""
    name = parse(spec).name
    if name in worlds.cards():
        return {"source": spec, "licence": "generated by diptych", "origin": None}
    known = card_of(name)
    if known is None:
        return {"source": spec, "licence": None, "origin": None}
    return {"source": spec, "licence": known.licence, "origin": known.origin}
