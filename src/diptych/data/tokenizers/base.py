"""The base class of tokenizers, which turn texts into lists of ids, and padding of batches.

Dimensions: N texts, L ids a text.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor


class Tokenizer(ABC):
    """Encodes text as ids. A text longer than `context` is truncated, but keeps its special ids.

    A subclass sets the attributes below in `__init__` and implements `ids`, `decode` and `to_dict`.
    """

    kind: ClassVar[str]
    vocab_size: int
    context: int
    """The most ids of a text, special ones included."""
    pad: int
    before: tuple[int, ...] = ()
    """Special ids put before each text, such as the start of text."""
    after: tuple[int, ...] = ()
    """Special ids put after each text, such as its end."""
    padding: Literal["longest", "max"] = "longest"
    """"max": the tower was trained on texts padded to `context`, and attends to the padding."""

    @abstractmethod
    def ids(self, text: str) -> list[int]:
        """The ids of one text, without special ids and not truncated."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, without special ones. What `ids` normalises (lower case, …) is not
        undone."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `from_dict` builds the same tokenizer."""

    @property
    def eot(self) -> int | None:
        """The id that ends each text, or None."""
        return self.after[-1] if self.after else None

    @property
    def room(self) -> int:
        """The most ids of a text, without special ones."""
        return self.context - len(self.before) - len(self.after)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text with special ids, at most `context` of them, not padded."""
        assert not isinstance(texts, str), "encode takes a list of texts"
        before = list(self.before)
        after = list(self.after)
        return [before + self.ids(text)[: self.room] + after for text in texts]

    def lost(self, text: str) -> int:
        """The number of ids of the text that do not fit into `context`."""
        return max(0, len(self.ids(text)) - self.room)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that determines ids: tokenizers with equal fingerprints give equal ids."""
        return hashlib.sha256(json.dumps(self._decides(), sort_keys=True).encode()).hexdigest()

    def _decides(self) -> dict[str, Any]:
        return self.to_dict()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)


def pad_batch(rows: Sequence[Sequence[int]], tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Pad and stack encoded texts by the tokenizer's padding rule: ids (N, L) and lengths (N,),
    int64.

    L is the longest length, or the context if the rule is "max". A text ends at its first end id,
    even if that is spelled out within the text, since CLIP's towers pool there.
    """
    lengths = torch.tensor([_end(row, tokenizer.eot) for row in rows], dtype=torch.int64)
    width = (
        tokenizer.context if tokenizer.padding == "max" else int(lengths.max()) if len(rows) else 0
    )
    ids = torch.full((len(rows), width), tokenizer.pad, dtype=torch.int64)
    for target, row in zip(ids, rows, strict=True):
        row = torch.as_tensor(row[:width], dtype=torch.int64)
        target[: len(row)] = row
    return ids, lengths


def by_length(
    rows: Sequence[Sequence[int]], tokenizer: Tokenizer, size: int
) -> tuple[Iterator[tuple[Tensor, Tensor]], Tensor]:
    """Batches of `size` encoded texts, sorted by length, and the row (N,) of each text.

    The batches are as returned by `pad_batch`; sorting by length saves padding. Rows are counted
    over all batches.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    batches = (
        pad_batch([rows[i] for i in order[start : start + size]], tokenizer)
        for start in range(0, len(rows), size)
    )
    return batches, torch.tensor(order, dtype=torch.int64).argsort()


def _end(row: Sequence[int], eot: int | None) -> int:
    return row.index(eot) + 1 if eot is not None and eot in row else len(row)
