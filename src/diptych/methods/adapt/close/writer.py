"""A captioner: a language model that reads vectors of a frozen dual encoder and writes about them.

    memory = encoder([A z, table(q)]),      A one linear layer from d to 4 D numbers, four tokens

z is the unit vector of an image, or of texts in its place; q are words such as a question.

Dimensions: B vectors, d their width, P tokens read for a vector, D width of the language model, L
words, S texts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.methods.adapt.close.gap import Gap
from diptych.models import t5
from diptych.models.delivered import Delivered, Validation
from diptych.models.generate import generate
from diptych.models.model import ImagesLike, Model, evaluating
from diptych.models.seq2seq import Seq2Seq, seq2seq
from diptych.spec import parse
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import freeze
from diptych.towers.tower import ImageTower

BEAMS = 5


class Captioner(Delivered):
    """Encoder, gap layer, adapter and language model. `lm` is a spec of `models.seq2seq`; if its
    folder no longer exists, `load_extra_state` builds it from what the run has stored."""

    lm: Seq2Seq | t5.T5

    def __init__(
        self,
        encoder: DualEncoder,
        words: Tokenizer | None,
        lm: str,
        gap: Gap,
        *,
        tokens: int,
        validation: Validation,
        longest: int,
    ):
        super().__init__()
        self.encoder = encoder
        self.gap = gap
        self.tokens = tokens
        self.longest = longest
        self.validation = validation
        freeze(encoder)
        folder = parse(lm).name.partition(":")[2]
        self.missing = folder if folder and not Path(folder).is_dir() else ""
        if not self.missing:
            self._write_with(seq2seq(lm, words))

    def _write_with(self, lm: Seq2Seq | t5.T5) -> None:
        self.lm = lm
        self.missing = ""
        self.adapter = nn.Linear(self.encoder.embed_dim, self.tokens * lm.width)

    @property
    def image(self) -> ImageTower:
        """The image tower, which has the preprocessing."""
        return self.encoder.image

    @torch.no_grad()
    def of_texts(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Ids (B, S, L) of lengths (B, S) -> unit vectors (B, d), the normalised mean of each row's
        projected vectors, which are not normalised before; texts of length 0 are skipped."""
        found = self.encoder.project_text(
            self.encoder.encode_text(ids.flatten(0, 1), lengths.flatten()).pooled
        )
        there = (lengths > 0)[..., None]
        return normalize(
            (at_least_float32(found).unflatten(0, ids.shape[:2]) * there).sum(1) / there.sum(1),
            dim=-1,
        )

    @torch.no_grad()
    def of_images(self, pixels: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> unit vectors (B, d)."""
        return at_least_float32(self.encoder.embed_images(pixels))

    def read(
        self, z: Tensor, ids: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vectors (B, d), and ids (B, L) with their start id and lengths (B,) -> memory (B, M, D),
        mask (B, M)."""
        vectors = self.adapter(z).unflatten(-1, (self.tokens, -1))
        if ids is not None and lengths is not None:
            start = len(self.lm.tokenizer.before)  # the start id belongs to generated text only
            ids = ids[:, start:]
            lengths = lengths - start
        return self.lm.read(vectors, ids, lengths)

    def extra_state(self) -> dict[str, Any]:
        return self.lm.extra_state()

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        if values:
            self._write_with(t5.rebuilt(dict(values)))

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "CaptionerModel":
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return CaptionerModel(self, tokenizer, preprocess, name=name)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # the task is known once it is made
        """Fields of a source that validation reads."""
        if self.validation.suite == "answers":
            return "images.main", "texts.question", "texts.answer"
        return "images.main", f"texts.{self.validation.settings['role']}"


class CaptionerModel(Model):
    """A model that writes about images; it embeds like its encoder. `diptych.load` returns it for a
    captioner."""

    def __init__(
        self, writer: Captioner, tokenizer: Tokenizer | None, preprocess: Preprocess, *, name: str
    ):
        super().__init__(writer.encoder, tokenizer, preprocess, name=name, delivered=writer)
        self.writer = writer
        self.lm = writer.lm
        self.validation = writer.validation

    def generate(
        self,
        images: ImagesLike | None = None,
        prompts: Sequence[str] | None = None,
        *,
        texts: Sequence[str] | None = None,
        batch_size: int = 64,
        strategy: str = "beam",
        max_tokens: int | None = None,
        exact: bool = False,
        seed: int = 0,
        **options: Any,
    ) -> list[str]:
        """Return a text for each image; with prompts (a question for each image), an answer.
        `texts` may be given in place of images; their vectors pass the gap layer.

        Strategies and their options are those of `models.strategies`, by default beam search with 5
        beams. At most `max_tokens` tokens are generated (None: the method's limit). Raises
        InputError for inputs that cannot be read, a wrong number of prompts, and an unknown
        strategy or option.
        """
        vectors = self._vectors(images, texts, batch_size, exact)
        prompts = self._as_many(prompts, len(vectors), "prompts")
        lm = self.lm
        found = []
        most = min(self.writer.longest, lm.tokenizer.room) if max_tokens is None else max_tokens
        if strategy == "beam":
            options = {"beams": BEAMS, **options}
        with evaluating(self.writer), torch.inference_mode():
            for start in range(0, len(vectors), batch_size):
                rows = slice(start, start + batch_size)
                memory, mask = self._read(vectors[rows], prompts[rows] if prompts else None)
                begin = torch.tensor(lm.tokenizer.before, device=self.device).expand(
                    len(memory), -1
                )
                found += generate(
                    lm,
                    begin,
                    memory=memory,
                    memory_mask=mask,
                    strategy=strategy,
                    eot=lm.tokenizer.eot,
                    max_tokens=most,
                    seed=seed,
                    row=start,
                    **options,
                )
        return [lm.tokenizer.decode(ids).strip() for ids in found]

    def log_prob(
        self,
        images: ImagesLike | None,
        texts: Sequence[str],
        prompts: Sequence[str] | None = None,
        *,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """Return log p(text i and its end | image i, prompt i), (N,): a sum over tokens of the
        lower-case text."""
        vectors = self._vectors(images, None, batch_size, exact)
        prompts = self._as_many(prompts, len(vectors), "prompts")
        lm = self.lm
        found = []
        written = self._as_many(texts, len(vectors), "texts")
        assert written is not None
        with evaluating(self.writer), torch.inference_mode():
            for start in range(0, len(vectors), batch_size):
                rows = slice(start, start + batch_size)
                memory, mask = self._read(vectors[rows], prompts[rows] if prompts else None)
                ids, lengths = pad_batch(
                    lm.tokenizer.encode([text.lower() for text in written[rows]]), lm.tokenizer
                )
                ids = ids.to(self.device)
                lengths = lengths.to(self.device)
                found.append(lm.log_prob(ids, lengths, memory=memory, memory_mask=mask).cpu())
        return torch.cat(found) if found else torch.zeros(0)

    def _read(self, vectors: Tensor, prompts: Sequence[str] | None) -> tuple[Tensor, Tensor]:
        if prompts is None:
            return self.writer.read(vectors)
        ids, lengths = pad_batch(self.lm.tokenizer.encode(prompts), self.lm.tokenizer)
        return self.writer.read(vectors, ids.to(self.device), lengths.to(self.device))

    def _vectors(
        self, images: ImagesLike | None, texts: Sequence[str] | None, batch_size: int, exact: bool
    ) -> Tensor:
        if (images is None) == (texts is None):
            raise InputError(
                f"{self.name} writes about images, or texts in their place; give either of them"
            )
        if images is not None:
            return self.embed_images(images, batch_size=batch_size, exact=exact).to(self.device)
        with evaluating(self.writer), torch.inference_mode():
            return self.writer.gap(self.embed_texts(list(texts or ())).to(self.device))

    def _as_many(self, texts: Sequence[str] | None, count: int, what: str) -> list[str] | None:
        if texts is None:
            return None
        if isinstance(texts, str) or len(texts) != count:
            given = "one string" if isinstance(texts, str) else f"{len(texts)}"
            raise InputError(
                f"{count} images came with {given} of {what}; give a list with one for each"
            )
        return list(texts)
