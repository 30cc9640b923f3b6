"""Texts that a language model learns to write behind words that it only reads: captions behind a
prompt, answers behind their questions.

Dimensions: B samples, L text length.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diptych.data.eda import without_stop_words
from diptych.data.questions import answered
from diptych.data.sample import BadSample, Sample
from diptych.data.tokenizers import Tokenizer
from diptych.data.views.masked import Masked
from diptych.data.views.texts import TextView


def written(tokenizer: Tokenizer, turns: Iterable[tuple[str, str]], length: int) -> Masked:
    """The ids of turns, what is read and what is written, one behind the other; the marks are what is
    written, each with its end. They are cut at `length`.

    Raises BadSample("no-room") if nothing that is written fits.
    """
    ids = [*tokenizer.before]
    marks = [-1] * len(ids)
    for read, said in turns:
        given = tokenizer.ids(read)
        target = [*tokenizer.ids(said), *tokenizer.after]
        ids += [*given, *target]
        marks += [*[-1] * len(given), *target]
    if all(mark < 0 for mark in marks[:length]):
        raise BadSample("no-room", f"{len(ids)} tokens do not fit into {length}")
    return Masked(ids[:length], marks[:length])


@dataclass(frozen=True, kw_only=True)
class PromptedView:
    """A text behind a prompt, texts.main (B, 1, L), of at most `length` ids. `role` is as in `TextView`.

    With `content` also texts.content (B, 1, L), the text alone without its stop words."""

    tokenizer: Tokenizer
    length: int
    prompt: str = ""
    role: str = "caption"
    content: bool = False

    @property
    def gives(self) -> tuple[str, ...]:
        return ("texts.main", "texts.content") if self.content else ("texts.main",)

    @property
    def reads(self) -> tuple[str, ...]:
        return self._texts.reads

    @cached_property
    def _texts(self) -> TextView:
        return TextView(tokenizer=self.tokenizer, role=self.role)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        [text] = self._texts.drawn(sample, rng, progress)
        found: dict[str, Any] = {
            "texts.main": [written(self.tokenizer, [(self.prompt, text)], self.length)]
        }
        if self.content:
            found["texts.content"] = self.tokenizer.encode([without_stop_words(text)])
        return found


@dataclass(frozen=True, kw_only=True)
class DialogueView:
    """The questions of a sample with their answers, texts.main (B, 1, L), of at most `length` ids.

    `template` is what is read of a question. All questions follow each other in the sample's order;
    with `turns` these are as many random ones in training, else the first. One answer of several is
    drawn in training, as often as people gave it, else the first. Raises BadSample for a sample without
    questions.
    """

    tokenizer: Tokenizer
    length: int
    template: str = "{}"
    turns: int | None = None
    reads = ("texts.question", "texts.answer")
    gives = ("texts.main",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        asked = [(question.text, answers) for question, answers in answered(sample) if answers]
        if not asked:
            raise BadSample("no-question", f"{sample.key} has no question with an answer")
        train = progress is not None
        order = list(range(len(asked)))
        if self.turns is not None:
            order = rng.permutation(len(asked)).tolist() if train else order
            order = order[: self.turns]
        turns = []
        for at in order:
            question, answers = asked[at]
            answer = answers[int(rng.integers(len(answers))) if train else 0]
            turns.append((self.template.replace("{}", question), answer))
        return {"texts.main": [written(self.tokenizer, turns, self.length)]}
