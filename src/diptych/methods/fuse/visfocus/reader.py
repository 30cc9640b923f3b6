"""What VisFocus delivers: an image tower that reads a page with a prompt, a projector, and an
encoder-decoder that reads the page and the prompt, and writes.

    memory = encoder([ table(q) ; projector(f(x, e(q))) ; task ]),     p(y_t | y_<t, memory) by the decoder

The prompt q enters twice: as states of the frozen encoder e in the image tower f, and as embeddings of
the language model's own table.

Dimensions: B pages, L ids, P tokens of a page, M tokens read, D width of the language model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.errors import InputError
from diptych.methods.fuse.visfocus.prompts import PromptEncoder, alike, translated
from diptych.models import t5
from diptych.models.captioner import Captioner, CaptionModel, Prompt
from diptych.models.delivered import Validation
from diptych.models.seq2seq import Seq2Seq
from diptych.towers.dual import Composed, DualEncoder
from diptych.towers.encoded import Encoded

TASKS = ("read", "lmpm", "answer")
"""The stages, each with a learned token that the language model reads last."""
Ids = tuple[Tensor, Tensor]
"""Ids (B, L) with their start and end, and lengths (B,)."""


class PageReader(Captioner):
    """Answers questions about pages. `prompts` is None for a tower that reads no prompt, and
    `instruction` the prompt where none is given."""

    lm: Seq2Seq | t5.T5

    def __init__(
        self,
        encoder: DualEncoder,
        lm: Seq2Seq | t5.T5,
        prompts: PromptEncoder | None,
        *,
        instruction: str,
        dropout: float,
        validation: Validation,
        longest: int | None,
    ):
        super().__init__()
        self.encoder = encoder
        self.lm = lm
        self.prompts = prompts
        self.instruction = instruction
        self.validation = validation
        self.longest = longest
        first = nn.Linear(encoder.image.width, lm.width)
        second = nn.Linear(lm.width, lm.width, bias=False)
        self.projector = nn.Sequential(
            first, nn.ReLU(), nn.Dropout(dropout), second, nn.Dropout(dropout)
        )
        self.tasks = nn.Embedding(len(TASKS), lm.width)
        for part in (first, second, self.tasks):
            nn.init.trunc_normal_(part.weight, std=0.02)
        nn.init.zeros_(first.bias)

    @property
    def words(self) -> Tokenizer:
        return self.lm.tokenizer

    def extra_state(self) -> dict[str, Any]:
        """The fingerprint of the prompt encoder's tokenizer, if there is one."""
        return {} if self.prompts is None else {"prompt_tokenizer": self.prompts.fingerprint}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        if self.prompts is not None:
            self.prompts.expected = values.get("prompt_tokenizer")

    # ---- pages

    def read(
        self, pixels: Tensor, task: str, prompt: Ids | None = None, vision: Ids | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pages (B, 3, H, W) -> memory (B, M, D) and its mask (B, M).

        `prompt` are ids for the language model, `vision` those for the prompt encoder. What is real
        comes first in each row, so that a row does not depend on the padding of others.
        """
        states = self._states(vision)
        seen = self.projector(self.encoder.encode_image(pixels, **states).tokens)
        B = len(seen)
        table = self.lm.table
        last = self.tasks.weight[TASKS.index(task)].expand(B, 1, -1)
        x = torch.cat([seen, last.to(seen.dtype)], dim=1)
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if prompt is not None:
            start = len(self.words.before)  # the start id belongs to what is written
            ids = prompt[0][:, start:]
            real = torch.arange(ids.shape[1], device=ids.device) < prompt[1][:, None] - start
            x = torch.cat([table(ids).to(x.dtype), x], dim=1)
            mask = torch.cat([real, mask], dim=1)
        x, mask = real_first(x, mask)
        return self.lm.encode(x, mask), mask

    def _states(self, vision: Ids | None) -> dict[str, Tensor]:
        if vision is None or self.prompts is None:
            return {}
        states, real = self.prompts(*vision)
        return {"prompt": states, "mask": real}

    # ---- pages and strings

    def see(self, pixels: Tensor) -> Tensor:
        if pixels.ndim > 4:
            raise InputError("this model reads pages; give one frame of each clip")
        return pixels  # what is seen depends on the prompt

    def prompted(self, seen: Tensor, prompts: Sequence[str] | None) -> Prompt:
        """As in `Captioner`. Raises InputError for a prompt that exceeds a context."""
        task = "read" if prompts is None else "answer"
        given = [""] * len(seen) if prompts is None else prompts
        texts = [text if text.strip() else self.instruction for text in given]
        rows = self.rows(texts)
        prompt = None if prompts is None and self.prompts is None else self._ids(rows, self.words)
        vision = None
        if self.prompts is not None:
            vision = self._ids(self.vision_rows(rows, texts), self.prompts.tokenizer)
        memory, mask = self.read(seen, task, prompt, vision)
        return Prompt(ids=[list(self.words.before)] * len(seen), memory=memory, memory_mask=mask)

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of prompts for the language model, with their start and end."""
        words = self.words
        for text in texts:
            if (lost := words.lost(text)) > 0:
                most = words.room
                raise InputError(
                    f"the question {text[:40]!r}… has {most + lost} tokens, and the language model reads {most} of a "
                    "question; shorten it, or train with a tokenizer of a longer context (--tokenizer bpe:context=N)"
                )
        return words.encode(texts)

    def vision_rows(self, rows: Sequence[Sequence[int]], texts: Sequence[str]) -> list[list[int]]:
        """The same prompts for the prompt encoder."""
        assert self.prompts is not None, "there is a prompt encoder"
        words = self.prompts.tokenizer
        found = [[*row] for row in rows]
        if not alike(words, self.words):
            found = [translated(row, self.words, words) for row in rows]
        for row, text in zip(found, texts, strict=True):
            if len(row) > words.context:
                raise InputError(
                    f"the question {text[:40]!r}… has {len(row)} tokens, and the prompt encoder reads "
                    f"{words.context}; shorten it, or train with an encoder of a longer context (--method.prompt)"
                )
        return found

    def _ids(self, rows: Sequence[Sequence[int]], words: Tokenizer) -> Ids:
        device = self.tasks.weight.device
        ids, lengths = pad_batch(rows, words)
        return ids.to(device), lengths.to(device)

    def instructed(self, count: int) -> dict[str, Tensor]:
        """What the image tower reads of the instruction, for so many pages."""
        if self.prompts is None:
            return {}
        texts = [self.instruction]
        ids, lengths = self._ids(self.vision_rows(self.rows(texts), texts), self.prompts.tokenizer)
        return self._states((ids.expand(count, -1), lengths.expand(count)))

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "PageReaderModel":
        assert preprocess is not None, "an image tower has a preprocessing"
        return PageReaderModel(self, tokenizer, preprocess, name=name, encoder=PageEncoder(self))


class PageReaderModel(CaptionModel):
    """A model that answers questions about pages; without one it writes what they say. Its embeddings
    are the mean tokens of a page under the instruction."""

    captioner: PageReader


class PageEncoder(Composed):
    """The image side of a reader; a page is read with the instruction as the prompt."""

    def __init__(self, reader: PageReader):
        super().__init__(reader.encoder, parts={})
        self._reader = (reader,)  # a tuple: its parameters are not those of the encoder

    def encode_image(self, x: Tensor, **options: Any) -> Encoded:
        return super().encode_image(x, **{**self._reader[0].instructed(len(x)), **options})


def real_first(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, M, D) with those of the mask (B, M) first, in their order, and the mask.

    >>> x = torch.tensor([[[1.0], [0.0], [2.0]]])
    >>> found, mask = real_first(x, torch.tensor([[True, False, True]]))
    >>> found.flatten().tolist(), mask.tolist()
    ([1.0, 2.0, 0.0], [[True, True, False]])
    """
    order = mask.int().argsort(dim=1, descending=True, stable=True)
    return x.gather(1, order[..., None].expand_as(x)), mask.gather(1, order)
