"""NEVLP's second stage: a frozen language model writes about what the queries read of an image.

    L = - mean over tokens of log p(y_t | y_<t, c, A Q),      Q = Q-Former(image),  A linear

Q are the outputs of the M queries, which A maps to as many embeddings of the language model, read before
all words; c are the concepts of the image and, for answers, the question. y is a caption or an answer,
with its end. Trained are A and what the queries pass through, from the first stage's weights on.

A language model with an encoder, a T5, reads A Q, c and the beginning of a caption in the encoder, and its
decoder writes the rest. [choice] In training the beginning is 0 to all but one of the tokens, with equal
frequency; else it is empty.

Dimensions: N images, T tokens of an image, M queries, L ids, D width of the language model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.images import Preprocess
from diptych.data.questions import asked_of
from diptych.data.sample import BadSample, Sample
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import Masked, TextView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.fuse.nevlp.base import QueryMethod, frozen_encoder, qformer_of
from diptych.methods.fuse.nevlp.concepts import CONCEPTS, named
from diptych.methods.fuse.nevlp.queries import FindsConcepts, QueryCaptioner, Seen
from diptych.methods.make import Make
from diptych.methods.teacher import LentLM
from diptych.models.captioner import CaptionModel, Prompt
from diptych.models.causal_lm import CausalLM
from diptych.models.delivered import Validation
from diptych.models.t5 import T5
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import freeze
from diptych.towers.nn.qformer import QFormer

QUESTION = "Question: {} Answer:"
"""What the language model reads of a question, as in BLIP-2."""
LONGEST = 32


def words_before(concepts: str, prompt: str) -> str:
    """The words that are read before those that are written.

    >>> words_before("dog, grass", "a photo of"), words_before("", "a photo of")
    ('dog, grass. a photo of', 'a photo of')
    """
    return f"{concepts}. {prompt}".strip() if concepts else prompt


@dataclass(frozen=True, kw_only=True)
class WrittenView:
    """A text to be written behind the words before it, texts.main (B, 1, L), whose marks are the text
    and its end: a caption behind the concepts of the image, or with `answers` an answer behind these
    and its question.

    With `encoder` the words before are those of the encoder, without their end: of a caption also its
    beginning in training, of random length. The ids are cut at `length`. Raises BadSample for a sample
    without such a text, and if there is no room for it.
    """

    tokenizer: Tokenizer
    names: Sequence[str]
    length: int
    role: str = "caption"
    answers: bool = False
    encoder: bool = False
    gives = ("texts.main",)

    @property
    def reads(self) -> tuple[str, ...]:
        concepts = (f"arrays.{CONCEPTS}",) if self.names else ()
        texts = ("question", "answer") if self.answers else (self.role,)
        return (*(f"texts.{role}" for role in texts), *concepts)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        words = self.tokenizer
        prompt = ""
        if self.answers:
            question, text = asked_of(sample, rng, progress is not None)
            prompt = QUESTION.format(question)
        else:
            [text] = TextView(tokenizer=words, role=self.role).drawn(sample, rng, progress)
        concepts = ""
        if self.names:
            concepts = named(sample.arrays[CONCEPTS].astype(int).tolist(), self.names)
        said = words.ids(text)
        before = [*words.before, *words.ids(words_before(concepts, prompt))]
        if self.encoder:
            split = 0
            if progress is not None and not self.answers and said:
                split = int(rng.integers(len(said)))
            before = [*before[len(words.before) :], *said[:split]]
            said = said[split:]
        if len(before) >= self.length:
            raise BadSample("no-room", f"{len(before)} tokens before the text leave none for it")
        ids = [*before, *said, *words.after][: self.length]
        marks = [-1] * len(before) + ids[len(before) :]
        return {"texts.main": [Masked(ids, marks)]}


class PromptedLM(QueryCaptioner):
    """A frozen language model that reads the outputs of a Q-Former's queries as its first tokens, and
    then words. One with an encoder (`reads`) reads them in it.

    With `answers`, prompts are questions. The state dict holds a checksum in place of the language
    model.
    """

    longest = LONGEST

    def __init__(
        self,
        encoder: DualEncoder,
        qformer: QFormer,
        tokenizer: Tokenizer,
        lent: LentLM,
        *,
        m: int,
        prompt: str,
        role: str,
        answers: bool,
    ):
        super().__init__(encoder, qformer, tokenizer, m=m, prompt=prompt)
        self.lent = lent
        self.answers = answers
        self.projection = nn.Linear(qformer.config.width, self.lm.table.embedding_dim)
        freeze(*qformer.word_parts())  # it reads none
        if answers:
            self.validation = Validation("answers", ("exact", "vqa"))
        else:
            self.validation = Validation("captions", ("accuracy", "cider"), {"role": role})

    @property
    def lm(self) -> CausalLM:  # type: ignore[override]  # an attribute of others
        return self.lent.model.lm

    @property
    def words(self) -> Tokenizer:
        return self.lent.model.tokenizer

    @property
    def reads(self) -> bool:
        """Whether the language model has an encoder."""
        return isinstance(self.lm, T5)

    @property
    def room(self) -> int:
        """The most ids that the language model reads behind the queries."""
        return min(self.words.context, self.lm.context - self.qformer.config.queries)

    def extra_state(self) -> dict[str, Any]:
        return {**super().extra_state(), "lm_tokenizer": self.words.fingerprint}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        super().load_extra_state(values)
        if values.get("lm_tokenizer", self.words.fingerprint) != self.words.fingerprint:
            raise InputError(
                f"this run was trained with another tokenizer than that of {self.lent.name}; give the language model "
                "as it was"
            )

    def soft_prompt(self, tokens: Tensor) -> Tensor:
        """Images' tokens (N, T, ·) -> the first embeddings (N, M, D) that the language model reads."""
        return self.projection(self.qformer(memory=tokens).tokens).to(self.lm.table.weight.dtype)

    def prompted(self, seen: Seen, prompts: Sequence[str] | None) -> Prompt:
        if prompts is None and self.answers:
            raise InputError("this model answers questions; ask one")
        asked = [""] * len(seen) if prompts is None else prompts
        if self.answers:
            asked = [QUESTION.format(text) for text in asked]
        concepts = self.said(seen.vectors) if self.names else [""] * len(seen)
        words = self.words
        rows = [words.ids(words_before(*each)) for each in zip(concepts, asked, strict=True)]
        soft = self.soft_prompt(seen.tokens)
        if not self.reads:
            return Prompt(ids=[[*words.before, *row] for row in rows], prefix=soft)
        rows = [[*row, *words.after] for row in rows]
        for row, text in zip(rows, asked, strict=True):
            if len(row) > self.room:
                raise InputError(
                    f"the prompt {text[:40]!r}… has {len(row)} tokens with the concepts, and {self.lent.name} reads "
                    f"{self.room}; shorten it"
                )
        lengths = torch.tensor([len(row) for row in rows], device=soft.device)
        ids = torch.full((len(rows), int(lengths.max())), words.pad, device=soft.device)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row)
        memory, mask = self.lm.read(soft, ids, lengths)  # type: ignore[operator]  # a T5
        return Prompt(ids=[[*words.before]] * len(rows), memory=memory, memory_mask=mask)

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "PromptedModel":
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return PromptedModel(self, tokenizer, preprocess, name=name)


class PromptedModel(FindsConcepts, CaptionModel):
    """A model that writes about images, or answers questions about them. Its embeddings are those of the
    frozen encoder."""

    captioner: PromptedLM


class NEVLPStageTwo(QueryMethod):
    """Trains the Q-Former of a first stage, and the projection, to prompt the language model."""

    adapts: ClassVar[bool] = True
    model: PromptedLM

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        encoder = frozen_encoder(make)
        self.model = PromptedLM(
            encoder,
            qformer_of(config, encoder, make.tokenizer),
            make.tokenizer,
            LentLM(config.lm, encoders=True),
            m=config.concepts,
            prompt=config.prompt,
            role=config.role,
            answers=config.task == "answers",
        )
        given = make.delivered
        if isinstance(given, QueryCaptioner):
            make.go_on_part(self.model.qformer, "qformer")
            make.go_on_part(self.model.norm, "norm")
            if config.concepts:
                self.model.know(given.names)
        make.go_on(self.model)
        if self.model.room < 1:
            raise InputError(
                f"{config.queries} queries fill the context of {config.lm}, {self.model.lm.context} tokens; name a "
                "language model with a longer one"
            )

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        if options["task"] == "answers":
            return (
                "evaluate {run} --data {data} --suite answers",
                "generate {run} 'A QUESTION' --images IMAGES",
            )
        return "evaluate {run} --data {data} --suite captions", "generate {run} --images IMAGES"

    def setup(self, sources: Mapping[str, Any]) -> None:
        """Raise InputError unless training goes on from a run of nevlp, with concepts if these are asked
        for."""
        given = self.make.delivered
        if not isinstance(given, QueryCaptioner):
            raise InputError(
                f"task={self.config.task} is the second stage of nevlp; start it from a run of the first, --init RUN"
            )
        if self.config.concepts and not given.names:
            raise InputError(
                "the run that training starts from knows no concepts; give --method.concepts 0"
            )

    def stages(self) -> Sequence[Stage]:
        prepared = bool(self.model.names) or self.config.cached
        return (Stage(min_batch=1, prepare=self.prepare if prepared else None),)

    def prepare(self, run: Any) -> None:
        """Find the concepts of all images, and their tokens if they are cached."""
        self.prepare_images(run)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        text = WrittenView(
            tokenizer=self.model.words,
            names=self.model.names,
            length=self.model.room,
            role=self.config.role,
            answers=self.config.task == "answers",
            encoder=self.model.reads,
        )
        return self.image_view, text

    def encode(self, batch: Batch, at: At) -> Features:
        """Return the log-probability of the tokens of each text, and their number."""
        model = self.model
        prompt = model.soft_prompt(self.tokens(batch))
        ids, _ = batch.text.flat
        marks = batch.text.marks
        assert marks is not None, "its view marks the text"
        counted = marks.flatten(0, 1) >= 0
        if model.reads:
            return self._decoded(prompt, ids, counted)
        hidden = model.lm(ids, prefix=prompt)
        before = hidden[:, prompt.shape[1] - 1 : -1]  # the token before each id
        found = model.lm.log_probs_where(before, ids, counted)
        return {"log_prob": found.sum(1), "words": counted.sum(1)}

    def _decoded(self, prompt: Tensor, ids: Tensor, counted: Tensor) -> Features:
        """As `encode`, of ids (B, L) whose first ones the encoder reads, with an end, and whose `counted`
        ones (B, L) the decoder writes behind its start."""
        lm: Any = self.model.lm
        words = self.model.words
        first = counted.int().argmax(1)
        number = counted.sum(1)
        width = int(first.max()) + 1
        before = torch.arange(width, device=ids.device) < first[:, None]
        given = F.pad(ids, (0, 1))[:, :width].masked_fill(~before, words.pad)
        given.scatter_(1, first[:, None], words.after[-1])
        memory, mask = lm.read(prompt, given, first + 1)
        place = torch.arange(int(number.max()), device=ids.device)
        target = ids.gather(1, (first[:, None] + place).clamp(max=ids.shape[1] - 1))
        real = place < number[:, None]
        start = target.new_tensor(words.before).expand(len(ids), -1)
        read = torch.cat([start, target.masked_fill(~real, words.pad)], 1)[:, :-1]
        hidden = lm(read, memory=memory, memory_mask=mask)[:, start.shape[1] - 1 :]
        found = lm.log_probs_where(hidden, target, real)
        return {"log_prob": found.sum(1), "words": number}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        loss = -features["log_prob"].sum() / features["words"].sum()
        return Losses({"log_loss": loss}, {"perplexity": torch.exp(loss.detach())})
