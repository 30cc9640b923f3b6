"""Texts about classes, images or other texts, asked of a writer: a language model, a program, a file.

Answers are appended to a cache, by the writer, the prompt, the key of what is described and the number
of the attempt. A run that was stopped goes on with the first question that has no answer, and one
whose data have grown asks what is new. Answers of another form are counted by reason, and asked again.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from diptych.data.sample import BadSample, EncodedImage
from diptych.errors import InputError
from diptych.files import locked, whole_lines

BATCH = 32
"""Questions that a writer gets at once."""
MOST = 1000
"""Letters of a text at the most."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a writer is asked: a prompt about the thing `key`, with its image or its texts if it has
    any."""

    key: str
    prompt: str
    image: EncodedImage | None = None
    texts: tuple[str, ...] = ()


class Writer(Protocol):
    """Answers questions, one answer each. `name` says who answers, with all that changes answers."""

    name: str

    def __call__(self, questions: Sequence[Question], attempt: int) -> Sequence[str]:
        """The answers. `attempt` counts how often the same was asked before."""
        ...


Read = Callable[[str], Sequence[str]]
"""Reads an answer as texts. Raises BadSample with the reason, or InputError, for one of another
form."""

_BULLET = re.compile(r"^\s*(?:\d+[.):]|[-*•])?\s*|\s+$")


def lines(answer: str) -> list[str]:
    """An answer as a list, a text on each line, with or without numbers and bullets.

    >>> lines("1. a red cat\\n\\n- two dogs ")
    ['a red cat', 'two dogs']
    """
    return [text for line in answer.splitlines() if (text := _BULLET.sub("", line))]


def whole(answer: str) -> list[str]:
    """An answer as one text.

    >>> whole(" a cat\\non a mat ")
    ['a cat on a mat']
    """
    return [text] if (text := " ".join(answer.split())) else []


@dataclass(kw_only=True)
class Described:
    """What was written: texts by key; how many answers were asked for and found in the cache; what
    was wrong with others, by reason; keys with fewer texts than wanted."""

    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    asked: int = 0
    cached: int = 0
    invalid: Counter[str] = field(default_factory=Counter)
    lacking: list[str] = field(default_factory=list)


def describe(
    questions: Sequence[Question],
    writer: Writer,
    cache: Path,
    *,
    read: Read = lines,
    each: int | None = None,
    tries: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Described:
    """Ask for `each` different texts about every thing, at most `tries` times; without `each` for all
    that one answer has.

    Raises InputError if two questions have one key, or another run writes to the cache's folder.

    >>> import tempfile
    >>> class Echo:
    ...     name = "echo"
    ...     def __call__(self, questions, attempt):
    ...         return [f"{question.prompt} {attempt}" for question in questions]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = describe([Question(key="cat", prompt="a cat")], Echo(), Path(folder, "c.jsonl"), each=2, tries=2)
    >>> found.texts, found.asked
    ({'cat': ('a cat 0', 'a cat 1')}, 2)
    """
    twice = [key for key, n in Counter(question.key for question in questions).items() if n > 1]
    if twice:
        raise InputError(f"two things have the key {twice[0]!r}; give each a key of its own")
    cache.parent.mkdir(parents=True, exist_ok=True)
    found = Described()
    texts: dict[str, list[str]] = {question.key: [] for question in questions}
    busy = f"another run writes to {cache.parent}; wait for it, or name another folder"
    with locked(cache.parent, busy), _Cache(cache, writer.name) as held:
        for attempt in range(tries):
            waiting = [q for q in questions if _waits(texts[q.key], each, attempt)]
            for start in range(0, len(waiting), BATCH):
                batch = waiting[start : start + BATCH]
                for question, answer in zip(
                    batch, held.answers(batch, writer, attempt, found), strict=True
                ):
                    _take(question, answer, read, texts[question.key], each, found.invalid)
                if progress is not None:
                    progress(attempt * len(questions) + start + len(batch), tries * len(questions))
    wanted = each or 1
    found.texts = {key: tuple(own) for key, own in texts.items() if own}
    found.lacking = [key for key, own in texts.items() if len(own) < wanted]
    return found


def _waits(own: Sequence[str], each: int | None, attempt: int) -> bool:
    """Whether a thing is asked about again: until it has as many texts as wanted, or any."""
    return len(own) < each if each else attempt == 0 or not own


def _take(
    question: Question,
    answer: str,
    read: Read,
    own: list[str],
    each: int | None,
    invalid: Counter[str],
) -> None:
    """Add the texts of an answer to those of a thing, and count what is wrong with it."""
    try:
        texts = read(answer)
    except BadSample as error:
        invalid[error.reason] += 1
        return
    except InputError:
        invalid["form"] += 1
        return
    if not texts:
        invalid["empty"] += 1
    for text in texts:
        if len(text) > MOST:
            invalid["long"] += 1
        elif text == question.prompt or text in own:
            invalid["repeated"] += 1
        elif each is None or len(own) < each:
            own.append(text)


class _Cache:
    """The answers of a writer in a file of JSON lines."""

    def __init__(self, path: Path, writer: str):
        self.path = path
        self.writer = writer
        self.held: dict[tuple[str, str, int], str] = {}

    def __enter__(self) -> "_Cache":
        for line in self._lines():
            if line["writer"] == self.writer:
                self.held[line["key"], line["prompt"], line["attempt"]] = line["answer"]
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def _lines(self) -> Iterator[Mapping[str, Any]]:
        """The lines of the file."""
        for number, line in enumerate(whole_lines(self.path), 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise InputError(
                    f"{self.path}, line {number}: not JSON ({error}); remove the line, or the file"
                ) from error

    def answers(
        self, batch: Sequence[Question], writer: Writer, attempt: int, found: Described
    ) -> list[str]:
        """The answers to some questions. If one is not in the cache all are asked, so that what a
        writer draws does not depend on where a run was stopped."""
        places = [(question.key, _digest(question.prompt), attempt) for question in batch]
        if all(place in self.held for place in places):
            found.cached += len(batch)
            return [self.held[place] for place in places]
        answers = list(writer(batch, attempt))
        assert len(answers) == len(batch), f"{writer.name} answers each question once"
        found.asked += len(batch)
        for place, answer in zip(places, answers, strict=True):
            key, prompt, _ = place
            record = {"writer": writer.name, "key": key, "prompt": prompt, "attempt": attempt}
            self.held[place] = answer
            self._file.write(json.dumps({**record, "answer": answer}) + "\n")
        self._file.flush()
        return answers


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
