"""Views of prompts: a question of a page with its answer, and a prompt in the tokenizer of the encoder.

The masked pieces of a page's text are those of `data.views.SpanView`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from diptych.data.questions import answered
from diptych.data.sample import BadSample, Sample
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import View
from diptych.methods.fuse.visfocus.prompts import translated

PROMPT = "prompt"
TARGET = "prompt_target"
VISION = "vision"
"""The names of texts: a prompt and what is to be written, as the language model has them, and the
prompt as its encoder has it."""


class Prompts(View, Protocol):
    """A view that gives prompts: `AskView`, `SpanView`."""

    @property
    def tokenizer(self) -> Tokenizer: ...


@dataclass(frozen=True, kw_only=True)
class AskView:
    """A question of a sample, texts.prompt, and an answer to it, texts.prompt_target, both (B, 1, L).

    Both are drawn in training, an answer as often as people gave it, else the first ones. Raises
    BadSample for a sample without an answered question, and for a question that exceeds the context.
    """

    tokenizer: Tokenizer
    reads = ("texts.question", "texts.answer")
    gives = (f"texts.{PROMPT}", f"texts.{TARGET}")

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        asked = [(question.text, answers) for question, answers in answered(sample) if answers]
        if not asked:
            raise BadSample("no-question", f"{sample.key} has no question with an answer")
        question, answers = asked[0 if progress is None else int(rng.integers(len(asked)))]
        answer = answers[0 if progress is None else int(rng.integers(len(answers)))]
        if (lost := self.tokenizer.lost(question)) > 0:
            raise BadSample(
                "long-question", f"{question[:40]!r}… has {lost} tokens more than the context"
            )
        return {
            self.gives[0]: self.tokenizer.encode([question]),
            self.gives[1]: self.tokenizer.encode([answer]),
        }


@dataclass(frozen=True, kw_only=True)
class VisionView:
    """The prompt that the view `of` draws, in another tokenizer, texts.vision (B, 1, L).

    Raises BadSample for one that exceeds this tokenizer's context.
    """

    tokenizer: Tokenizer
    of: Prompts
    like: str = f"texts.{PROMPT}"
    gives = (f"texts.{VISION}",)

    @property
    def reads(self) -> tuple[str, ...]:
        return self.of.reads

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        rows: Sequence[Sequence[int]] = self.of(sample, rng, progress)[self.like]
        found = [translated(row, self.of.tokenizer, self.tokenizer) for row in rows]
        if (most := max(map(len, found))) > self.tokenizer.context:
            raise BadSample(
                "long-question",
                f"a prompt has {most} tokens, and its encoder reads {self.tokenizer.context}",
            )
        return {self.gives[0]: found}
