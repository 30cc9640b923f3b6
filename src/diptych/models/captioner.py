"""Captioners: modules that write about images, and the model that accepts images and strings for
them.

A captioner is a dual encoder and a decoder. How the decoder reads an image and a prompt differs, so
a subclass implements `see` and `prompted`; generation and probabilities are the same for all.

Dimensions: B images, M memory tokens, P prefix tokens, L text length, D width of the decoder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.models.delivered import Delivered, Validation
from diptych.models.generate import generate
from diptych.models.matching import runs
from diptych.models.model import ImagesLike, Model, evaluating
from diptych.towers.dual import DualEncoder
from diptych.towers.tower import ImageTower

BEAMS = 5
"""Beams of the default strategy."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a decoder reads before it writes: the first ids of each row, behind a prefix (B, P, D) if
    there is one, and a memory (B, M, ·) with the mask (B, M) of what is real."""

    ids: Sequence[Sequence[int]]
    memory: Tensor | None = None
    memory_mask: Tensor | None = None
    prefix: Tensor | None = None

    @property
    def before(self) -> int:
        """The number P of tokens of the prefix."""
        return 0 if self.prefix is None else self.prefix.shape[1]

    @property
    def given(self) -> dict[str, Any]:
        """The keywords with which a decoder reads what is not ids."""
        each = {"memory": self.memory, "memory_mask": self.memory_mask, "prefix": self.prefix}
        return {name: value for name, value in each.items() if value is not None}


class Captioner(Delivered):
    """A dual encoder `encoder` and a decoder `lm`, which writes with the tokenizer `words`.

    At most `longest` tokens are written by default (None: up to the context).
    """

    encoder: DualEncoder
    lm: Any
    validation: Validation
    longest: int | None = None

    @property
    def words(self) -> Tokenizer:
        """The tokenizer of what is read and written."""
        raise NotImplementedError

    @property
    def end(self) -> tuple[int, ...]:
        """The ids behind a text that is written, which ends at the last of them."""
        return self.words.after

    @property
    def image(self) -> ImageTower:
        """The image tower, which has the preprocessing."""
        return self.encoder.image

    def see(self, pixels: Tensor) -> Any:
        """Return what is known of images (B, 3, H, W), or of clips (B, V, 3, H, W): a tensor or another
        value with a length, of which the numbers of rows (N,) choose some; one row each."""
        raise NotImplementedError

    def prompted(self, seen: Any, prompts: Sequence[str] | None) -> Prompt:
        """Return what the decoder reads of images that were seen (B, …), with a prompt for each."""
        raise NotImplementedError

    def target(self, text: str) -> str:
        """Return a text in the form in which the captioner writes it."""
        return text

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "CaptionModel":
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return CaptionModel(self, tokenizer, preprocess, name=name)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # the task is known once it is made
        """Fields of a source that validation reads."""
        if self.validation.suite == "answers":
            return "images.main", "texts.question", "texts.answer"
        return "images.main", f"texts.{self.validation.settings.get('role', '*')}"


class Writes:
    """The abilities of a model that writes about images: `generate` and `log_prob`."""

    captioner: Captioner
    lm: Any
    name: str
    device: torch.device
    _batches: Any  # as `Model._batches`

    def generate(
        self,
        images: ImagesLike,
        prompts: Sequence[str] | None = None,
        *,
        batch_size: int = 64,
        exact: bool = False,
        **options: Any,
    ) -> list[str]:
        """Return a text for each image; with prompts (such as a question for each image), what
        follows them. `images` are those of `embed_images`, or a tensor of preprocessed clips
        (N, V, 3, H, W), all frames of which are read.

        `options` are `strategy` with its options, those of `models.strategies`, by default beam
        search with 5 beams; `max_tokens`, the most tokens generated (None: the method's limit);
        `min_tokens` and `seed`. Raises InputError for images that cannot be read, a wrong number of
        prompts, a prompt that fills the context, and an unknown strategy or option.
        """
        seen, count = self._seen(images, batch_size, exact)
        return self._written(seen, self._as_many(prompts, count, "prompts"), **options)

    def log_prob(
        self,
        images: ImagesLike,
        texts: Sequence[str],
        prompts: Sequence[str] | None = None,
        *,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """Return log p(text i and its end | image i, prompt i), (N,): a sum over tokens.

        Raises InputError as `generate` does, and for a text that exceeds the context with its
        prompt.
        """
        seen, count = self._seen(images, batch_size, exact)
        prompts = self._as_many(prompts, count, "prompts")
        targets = self._as_many(texts, count, "texts")
        assert targets is not None
        for at, text in enumerate(targets):
            if not text.strip():
                raise InputError(f"text {at} is empty; give each image some words")
        words = self.captioner.words
        found = [torch.zeros(0)]
        with evaluating(self.captioner), torch.inference_mode():
            for prompt, start in self._prompted(seen, prompts):
                texts = targets[start : start + len(prompt.ids)]
                rows = [
                    [*first, *words.ids(self.captioner.target(text)), *self.captioner.end]
                    for first, text in zip(prompt.ids, texts, strict=True)
                ]
                self._fits(rows, texts, "text", prompt.before)
                ids, lengths = self._padded(rows)
                first = torch.tensor([len(row) for row in prompt.ids], device=self.device)
                found.append(self.lm.log_prob(ids, lengths, first=first, **prompt.given).cpu())
        return torch.cat(found)

    def _masked(self, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """The ids (B, L) of a prompt, and the mask (B, P + L) of what is real."""
        ids, lengths = self._padded(prompt.ids)
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return ids, F.pad(mask, (prompt.before, 0), value=True)

    def _seen(self, images: ImagesLike, batch_size: int, exact: bool) -> tuple[Iterator[Any], int]:
        """What the captioner knows of images, batch by batch, and their number."""
        batches, count = self._batches(images, batch_size, exact, clips=True)
        return (self._see(pixels) for (pixels,) in batches), count

    def _see(self, pixels: Tensor) -> Any:
        """What the captioner knows of images; a run of equal ones is seen once."""
        first, run = runs(pixels)
        seen = self.captioner.see(pixels[first].to(self.device))
        return seen if bool(first.all()) else seen[run.to(self.device)]

    def _written(
        self,
        seen: Iterator[Any],
        prompts: list[str] | None,
        *,
        strategy: str = "beam",
        max_tokens: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> list[str]:
        """The texts that `generate` returns of what was seen."""
        if strategy == "beam":
            options = {"beams": BEAMS, **options}
        words = self.captioner.words
        found = []
        with evaluating(self.captioner), torch.inference_mode():
            for prompt, start in self._prompted(seen, prompts):
                most = max_tokens
                if most is None:
                    room = self.lm.context - prompt.before - max(map(len, prompt.ids))
                    most = min(self.captioner.longest or room, room)
                found += generate(
                    self.lm,
                    *self._masked(prompt),
                    **prompt.given,
                    strategy=strategy,
                    eot=self.captioner.end[-1] if self.captioner.end else None,
                    max_tokens=most,
                    seed=seed,
                    row=start,
                    **options,
                )
        return [words.decode(ids).strip() for ids in found]

    def _prompted(
        self, seen: Iterator[Any], prompts: list[str] | None
    ) -> Iterator[tuple[Prompt, int]]:
        """What the decoder reads, batch by batch, and the number of the first image of each."""
        start = 0
        for known in seen:
            rows = None if prompts is None else prompts[start : start + len(known)]
            prompt = self.captioner.prompted(known, rows)
            texts = rows or [""] * len(known)
            self._fits([[*row, 0] for row in prompt.ids], texts, "prompt", prompt.before)
            yield prompt, start
            start += len(known)

    def _fits(
        self, rows: Sequence[Sequence[int]], texts: Sequence[str], what: str, before: int = 0
    ) -> None:
        """Raise InputError for the first row that exceeds the context, behind `before` tokens of a
        prefix."""
        for row, text in zip(rows, texts, strict=True):
            if before + len(row) > self.lm.context:
                raise InputError(
                    f"the {what} {text[:40]!r}… needs {before + len(row)} tokens, the context of {self.name} is "
                    f"{self.lm.context}; shorten it"
                )

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids (B, L), padded to the longest, and lengths (B,)."""
        ids, lengths = pad_batch(rows, self.captioner.words)
        ids = ids[:, : int(lengths.max())]
        return ids.to(self.device), lengths.to(self.device)

    def _as_many(self, texts: Sequence[str] | None, count: int, what: str) -> list[str] | None:
        if texts is None:
            return None
        if isinstance(texts, str) or len(texts) != count:
            given = "one string" if isinstance(texts, str) else f"{len(texts)}"
            raise InputError(
                f"{count} images came with {given} of {what}; give a list with one for each"
            )
        return list(texts)


class CaptionModel(Writes, Model):
    """A model that writes about images; it embeds like `encoder`, by default the captioner's."""

    def __init__(
        self,
        captioner: Captioner,
        tokenizer: Tokenizer | None,
        preprocess: Preprocess,
        *,
        name: str,
        encoder: DualEncoder | None = None,
    ):
        encoder = encoder or captioner.encoder
        super().__init__(encoder, tokenizer, preprocess, name=name, delivered=captioner)
        self.captioner = captioner
        self.lm = captioner.lm
        self.validation = captioner.validation

    def fuse(
        self,
        images: ImagesLike,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """Return the decoder's token (N, D) behind text i, read with image i, float32, on the CPU: a
        feature of both for a classifier. Errors are those of `generate`."""
        seen, count = self._seen(images, batch_size, exact)
        found = [torch.zeros(0, 0)]
        with evaluating(self.captioner), torch.inference_mode():
            for prompt, _ in self._prompted(seen, self._as_many(texts, count, "texts")):
                state = self.lm.start(*self._masked(prompt), **prompt.given)
                last = torch.tensor([prompt.before + len(row) - 1 for row in prompt.ids])
                tokens = state.hidden[torch.arange(len(last)), last]
                found.append(at_least_float32(tokens).cpu())
        return torch.cat(found[1:] or found).clone()
