"""Tasks on texts: some texts are read as vectors, one as words, and others are the targets.

Dimensions: B samples, S sources, T targets, L text length.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from diptych.data.questions import agreed, answered
from diptych.data.sample import BadSample, Sample
from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError

ANSWER = "answer"


@dataclass(frozen=True, kw_only=True)
class Task:
    """Which texts of a sample are read and which are targets, by their roles.

    - `source` is the role of the texts that are read as a vector, up to `sources` of them ("": an
      image is read instead).
    - `context` is the role of the text that is read as words ("": none).
    - `target` is the role of the text to generate, at most `targets` of them. "" is the source
      itself; if it equals the source's role, the targets are the other texts of that role; "answer"
      is the answer that people agree on, with the question as context; any other role means all its
      texts.
    """

    source: str = "caption"
    context: str = ""
    target: str = ""
    sources: int = 1
    targets: int = 4

    def __post_init__(self) -> None:
        for name in ("sources", "targets"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}; it is a number of texts, at least 1"
                )
        if self.target == ANSWER and self.context != "question":
            raise InputError(
                f"answers are written to questions, and context is {self.context!r}; set context=question"
            )
        if not self.source and not self.target:
            raise InputError("there is no source that could be written; name a target")

    @property
    def reads(self) -> tuple[str, ...]:
        """The fields that a sample must have."""
        roles = dict.fromkeys((self.source, self.context, self.target))
        return tuple(f"texts.{role}" for role in roles if role)

    def draw(self, sample: Sample, rng: np.random.Generator, train: bool) -> dict[str, list[str]]:
        """Return the texts of "source", "context" and "target": sampled in training, else the first
        ones.

        Raises BadSample: no-caption if a role has no text, no-question, or few-captions if there is
        no other text beside the source.
        """
        held = _held(sample, self.source, rng, train) if self.source else []
        found = {"source": held[: self.sources], "context": [], "target": held[:1]}
        if self.target == ANSWER:
            pairs = [(question.text, answers) for question, answers in answered(sample) if answers]
            if not pairs:
                raise BadSample("no-question", f"{sample.key} has no question with an answer")
            question, answers = pairs[int(rng.integers(len(pairs))) if train else 0]
            return {**found, "context": [question], "target": agreed(answers)[: self.targets]}
        if self.context:
            found["context"] = _held(sample, self.context, rng, train)[:1]
        if self.target and self.target == self.source:
            found["target"] = held[self.sources :][: self.targets]
            if not found["target"]:
                raise BadSample(
                    "few-captions",
                    f"{len(held)} texts of role {self.source!r}, of which others are asked",
                )
        elif self.target:
            found["target"] = _held(sample, self.target, rng, train)[: self.targets]
        return found


@dataclass(frozen=True, kw_only=True)
class TaskView:
    """One part of a task as token ids (B, S or 1 or T, L); missing texts have length 0.

    Views of one task name the first of them as `like`, so that all draw the same texts. Targets are
    in lower case.
    """

    tokenizer: Tokenizer
    task: Task
    part: Literal["source", "context", "target"]
    like: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return self.task.reads

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"texts.{self.part}",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        texts = self.task.draw(sample, rng, progress is not None)[self.part]
        room = {
            "source": self.task.sources,
            "context": 1,
            "target": self.task.targets if self.task.target else 1,
        }
        if self.part == "target":
            texts = [text.lower() for text in texts]
        return {self.gives[0]: self.tokenizer.encode(texts) + [[]] * (room[self.part] - len(texts))}


def _held(sample: Sample, role: str, rng: np.random.Generator, train: bool) -> list[str]:
    """Return the texts of a role that are not blank, in random order in training."""
    texts = [text for text in sample.captions(role) if text.strip()]
    if not texts:
        raise BadSample("no-caption", f"{sample.key} has no text of role {role!r}")
    return [texts[at] for at in rng.permutation(len(texts))] if train else texts
