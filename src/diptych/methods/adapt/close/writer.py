"""A captioner: a language model that reads vectors of a frozen dual encoder and writes about them.

    memory = encoder([A z, table(q)]),      A one linear layer from d to 4 D numbers, four tokens

z is the unit vector of an image, or of texts in its place; q are words such as a question.

Dimensions: B vectors, d their width, P tokens read for a vector, D width of the language model, L
words, S texts.
"""

from collections.abc import Iterator, Mapping, Sequence
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
from diptych.models.captioner import Captioner, CaptionModel, Prompt
from diptych.models.delivered import Validation
from diptych.models.model import ImagesLike, evaluating
from diptych.models.seq2seq import Seq2Seq, seq2seq
from diptych.spec import parse
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import freeze


class VectorCaptioner(Captioner):
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
    def words(self) -> Tokenizer:
        return self.lm.tokenizer

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

    def see(self, pixels: Tensor) -> Tensor:
        return self.of_images(pixels)

    def prompted(self, seen: Tensor, prompts: Sequence[str] | None) -> Prompt:
        words = self.words
        context = ()
        if prompts is not None:
            ids, lengths = pad_batch(words.encode(prompts), words)
            context = (ids.to(seen.device), lengths.to(seen.device))
        memory, mask = self.read(seen, *context)
        return Prompt(ids=[list(words.before)] * len(seen), memory=memory, memory_mask=mask)

    def target(self, text: str) -> str:
        return text.lower()

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "VectorCaptionModel":
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return VectorCaptionModel(self, tokenizer, preprocess, name=name)


class VectorCaptionModel(CaptionModel):
    """A model that writes about images, or about texts in their place."""

    captioner: VectorCaptioner

    def generate(
        self,
        images: ImagesLike | None = None,
        prompts: Sequence[str] | None = None,
        *,
        texts: Sequence[str] | None = None,
        batch_size: int = 64,
        exact: bool = False,
        **options: Any,
    ) -> list[str]:
        """As `CaptionModel.generate`; `texts` may be given in place of images, whose vectors pass
        the gap layer."""
        vectors = self._vectors(images, texts, batch_size, exact)
        prompts = self._as_many(prompts, len(vectors), "prompts")
        return self._written(iter(vectors.split(batch_size)), prompts, **options)

    def _seen(
        self, images: ImagesLike, batch_size: int, exact: bool
    ) -> tuple[Iterator[Tensor], int]:
        vectors = self._vectors(images, None, batch_size, exact)
        return iter(vectors.split(batch_size)), len(vectors)

    def _vectors(
        self, images: ImagesLike | None, texts: Sequence[str] | None, batch_size: int, exact: bool
    ) -> Tensor:
        if (images is None) == (texts is None):
            raise InputError(
                f"{self.name} writes about images, or texts in their place; give either of them"
            )
        if images is not None:
            return self.embed_images(images, batch_size=batch_size, exact=exact).to(self.device)
        with evaluating(self.captioner), torch.inference_mode():
            return self.captioner.gap(self.embed_texts(list(texts or ())).to(self.device))
