"""Text with media marks: captions of one medium, and documents in which media and sentences alternate.

    pair        <s> <visual> caption <endofchunk> </s>
    document    <s> text <visual> sentences <endofchunk> text <visual> sentences <endofchunk> </s>

A target is every id but the first, the media marks and padding. In documents neither is the end, nor
what belongs to no medium: text before the first mark, and between an <endofchunk> and the next mark.

Dimensions: B samples, T media, F frames of each (1 of images), L ids, S sentences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.data.sample import BadSample, Sample, Text
from diptych.data.tokenizers import Tokenizer, from_dict
from diptych.data.views import ImageView, Masked
from diptych.metrics import lab

VISUAL = "visual"
END = "endofchunk"
JITTER = 0.02
"""Standard deviation of the noise of similarities in training; it is clipped at twice that."""
Match = Literal["given", "similar", "assigned"]


def with_marks(words: Tokenizer, length: int) -> Tokenizer:
    """The tokenizer with a media mark and the end of a chunk behind its vocabulary, for texts that have
    at most `length` ids with these two."""
    special = "+".join([*words.added, VISUAL, END])
    return from_dict({**words.to_dict(), "context": length - 2, "special": special})


def as_pairs(words: Tokenizer, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Texts (B, L) of lengths (B,) as those of pairs, (B, L + 2): with a media mark before the words and
    the end of a chunk behind them.

    >>> from diptych.data.tokenizers import train_bpe
    >>> words = with_marks(train_bpe(["a cat"], vocab_size=259), length=8)
    >>> as_pairs(words, torch.tensor([[1, 9, 8, 2], [1, 7, 2, 0]]), torch.tensor([4, 3]))[0].tolist()
    [[1, 259, 9, 8, 260, 2], [1, 259, 7, 260, 2, 0]]
    """
    first = len(words.before)
    end = (lengths - len(words.after) + 1)[:, None]
    place = torch.arange(ids.shape[1] + 2, device=ids.device).expand(len(ids), -1)
    source = place - (place > first).long() - (place > end).long()
    found = ids.gather(1, source.clamp(max=ids.shape[1] - 1))
    found = found.masked_fill(place == first, words.special_id(VISUAL))
    found = found.masked_fill(place == end, words.special_id(END))
    return found.masked_fill(place >= lengths[:, None] + 2, words.pad), lengths + 2


@dataclass(frozen=True, kw_only=True)
class DocumentView:
    """The first `media` media of a document and its text: images.NAME (B, T F, 3, H, W),
    fields.NAME.there (B, T), which of the media are real, and texts.NAME (B, 1, L), whose marks are
    the targets. Of more media, as many random ones are read in training, in their order.

    `match` says which sentences (texts of `role`) belong to a medium:

    - "given": those whose attribute `image` names its role, or several joined by +; of a document
      without this attribute, sentence i belongs to medium i.
    - "similar": the one with the largest similarity.
    - "assigned": one each, so that the similarities have the largest sum (Hungarian algorithm).

    Similarities are the array `similarity` (media, S), to which training adds noise; media below
    `min_similarity` with their sentence, and files of fewer than `bytes` bytes, are left out. A text is cut at
    `length` ids, and media that are marked behind them are left out. Raises BadSample for a document
    without media or sentences, or without similarities that are asked for.
    """

    image: ImageView
    tokenizer: Tokenizer
    length: int
    media: int = 3
    role: str = "document"
    match: Match = "given"
    min_similarity: float = -1.0
    bytes: int = 0
    name: str = "main"

    @property
    def reads(self) -> tuple[str, ...]:
        similar = () if self.match == "given" else ("arrays.similarity",)
        return "images.main", f"texts.{self.role}", *similar

    @property
    def gives(self) -> tuple[str, ...]:
        return f"images.{self.name}", f"fields.{self.name}.there", f"texts.{self.name}"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        said = [text for text in sample.texts if text.role == self.role and text.text.strip()]
        if not said:
            raise BadSample("no-caption", f"no text of role {self.role!r}")
        owners = self._owners(sample, said, rng, progress)
        roles = list(dict.fromkeys(role for held in owners for role in held))
        if len(roles) > self.media:
            chosen = np.arange(self.media)
            if progress is not None:
                chosen = np.sort(rng.choice(len(roles), self.media, replace=False))
            roles = [roles[at] for at in chosen]
        texts = [text.text.strip() for text in said]
        owners = [[role for role in held if role in roles] for held in owners]
        ids, marks = marked(self.tokenizer, texts, owners, self.length)
        shown = roles[: ids.count(self.tokenizer.special_id(VISUAL))]
        if not shown:
            raise BadSample("no-image", "no image of the document is marked within the context")
        pixels = [self._read(sample, role, rng, progress) for role in shown]
        pixels += [torch.zeros_like(pixels[0])] * (self.media - len(pixels))
        there = torch.arange(self.media) < len(shown)
        return {
            f"images.{self.name}": torch.cat(pixels),
            f"fields.{self.name}.there": there,
            f"texts.{self.name}": [Masked(ids, marks)],
        }

    def _read(
        self, sample: Sample, role: str, rng: np.random.Generator, progress: float | None
    ) -> Tensor:
        """The pixels (F, 3, H, W) of one medium."""
        one = Sample(key=sample.key, source=sample.source, images={"main": sample.images[role]})
        return self.image(one, rng, progress)["images.main"]

    def _owners(
        self, sample: Sample, said: list[Text], rng: np.random.Generator, progress: float | None
    ) -> list[list[str]]:
        """The roles of the media that begin at, or go on with, each sentence."""
        images = {
            role: row
            for row, (role, image) in enumerate(sample.images.items())
            if not self.bytes or len(image.read()) >= self.bytes
        }
        if self.match == "given":
            if any("image" in text.attrs for text in said):
                named = [str(text.attrs.get("image", "")).split("+") for text in said]
            else:
                named = [*([role] for role in images), *[[] for _ in said]][: len(said)]
            return [[role for role in held if role in images] for held in named]
        similarity = self._similarity(sample, said, rng, progress)
        owners: list[list[str]] = [[] for _ in said]
        best = assigned(similarity) if self.match == "assigned" else similarity.argmax(1)
        for role, row in images.items():
            if best[row] >= 0 and similarity[row, best[row]] >= self.min_similarity:
                owners[best[row]].append(role)
        return owners

    def _similarity(
        self, sample: Sample, said: list[Text], rng: np.random.Generator, progress: float | None
    ) -> np.ndarray:
        found = np.asarray(sample.arrays.get("similarity", np.zeros((0, 0))), np.float64)
        if found.shape != (len(sample.images), len(said)):
            raise BadSample(
                "no-similarity",
                f"{len(sample.images)} media and {len(said)} sentences, but similarities {found.shape}",
            )
        if progress is None:
            return found
        noise = rng.normal(0, JITTER, found.shape)
        return found + np.clip(noise, -2 * JITTER, 2 * JITTER)


def assigned(similarity: np.ndarray) -> np.ndarray:
    """The sentence of each medium so that similarities (media, S) have the largest sum, -1 where there
    are too few sentences.

    >>> assigned(np.array([[0.9, 0.8], [0.7, 0.1]])).tolist()
    [1, 0]
    """
    with lab("match=assigned"):
        from scipy.optimize import linear_sum_assignment

    found = np.full(len(similarity), -1)
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    found[rows] = columns
    return found


def marked(
    words: Tokenizer, texts: Sequence[str], owners: Sequence[Sequence[str]], length: int
) -> tuple[list[int], list[int]]:
    """The ids of a document and its targets, -1 where there is none, both cut at `length`.

    `owners` are the media of each sentence. One that was not marked before is marked, behind the end
    of the chunk before; sentences of media that all were marked belong to the same chunk.
    """
    visual = words.special_id(VISUAL)
    end = words.special_id(END)
    ids = [*words.before]
    marks = [-1] * len(ids)
    run: list[str] = []
    seen: set[str] = set()
    open_chunk = False

    def put(added: Sequence[int], target: bool) -> None:
        ids.extend(added)
        marks.extend(added if target else [-1] * len(added))

    def close(chunk: bool) -> None:
        """Write the sentences so far, and the end of their chunk if there is one."""
        put(words.ids(" ".join(run)) if run else [], chunk)
        run.clear()
        put([end] if chunk else [], chunk)

    for text, held in zip(texts, owners, strict=True):
        new = [role for role in held if role not in seen]
        if new or (open_chunk and not held):
            close(open_chunk)
            open_chunk = bool(new)
            put([visual] * len(new), False)
            seen |= set(new)
        run.append(text)
    close(open_chunk)
    put(words.after, False)
    return ids[:length], marks[:length]
