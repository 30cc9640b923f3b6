"""The base class of tokenizers, which turn texts into lists of ids, and padding of batches.

Dimensions: N texts, L ids a text.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.errors import InputError

_RANGE = re.compile(r"(?P<name>[a-z_]*?)(?P<first>\d+)-(?P=name)(?P<last>\d+)")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MOST_SPECIAL = 10_000


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
    special: Mapping[str, int] = MappingProxyType({})
    """Ids with a meaning of their own, by name: "mask", "unk", "extra_id_0", … No text is encoded
    to the ids that were added; only views put them into texts."""
    added: tuple[str, ...] = ()
    """The names of `special` that were added behind the vocabulary."""

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

    @abstractmethod
    def starts_word(self, ids: Sequence[int]) -> list[bool]:
        """Whether each of some consecutive ids of a text begins a word."""

    def special_id(self, name: str) -> int:
        """The id of a special token. Raises InputError if there is none of this name."""
        if name not in self.special:
            has = ", ".join(self.special) or "none"
            raise InputError(
                f"the tokenizer has no special token {name!r} (it has {has}); add it with "
                f"--tokenizer {self.kind}:special={name}"
            )
        return self.special[name]

    @cached_property
    def ordinary(self) -> np.ndarray:
        """The ids that stand for parts of texts: all but `pad`, `before`, `after` and `special`."""
        others = [self.pad, *self.before, *self.after, *self.special.values()]
        return np.setdiff1d(np.arange(self.vocab_size), others)

    def _add(self, special: str, own: Mapping[str, int] | None = None) -> None:
        """Set `special`: the vocabulary's `own`, and behind the vocabulary those of a list such as
        "mask+extra_id_0-extra_id_9" that are not among them."""
        own = own or {}
        self.added = tuple(name for name in special_names(special) if name not in own)
        behind = {name: self.vocab_size + number for number, name in enumerate(self.added)}
        self.special = {**own, **behind}
        self.vocab_size += len(self.added)

    def _added(self) -> dict[str, str]:
        """The part of `to_dict` with the added special tokens; empty without any, as in files
        from before they existed."""
        return {"special": "+".join(self.added)} if self.added else {}

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


def special_names(special: str) -> tuple[str, ...]:
    """The names in a list of special tokens, in which a range stands for numbered names.

    Raises InputError for what is no name.

    >>> special_names("mask+extra_id_0-extra_id_2")
    ('mask', 'extra_id_0', 'extra_id_1', 'extra_id_2')
    """
    names: list[str] = []
    for part in special.split("+") if special else ():
        span = _RANGE.fullmatch(part)
        if span:
            numbers = range(int(span["first"]), int(span["last"]) + 1)
            if not 0 < len(numbers) <= _MOST_SPECIAL:
                raise InputError(
                    f"special tokens {part!r} are {len(numbers)}; give 1 to {_MOST_SPECIAL:,}"
                )
            names += [f"{span['name']}{number}" for number in numbers]
        elif _NAME.fullmatch(part):
            names.append(part)
        else:
            raise InputError(
                f"{part!r} names no special token; write lower-case names as mask+unk+extra_id_0-extra_id_9"
            )
    return tuple(dict.fromkeys(names))


def word_starts(pieces: Sequence[str]) -> list[bool]:
    """Whether each piece begins a word, by the marks of the usual vocabularies: Ġ or ▁ before a
    word, </w> behind it, ## before what continues one.

    >>> word_starts(["Ġred", "dish", "Ġcat"]), word_starts(["red", "##dish", "cat"])
    ([True, False, True], [True, False, True])
    >>> word_starts(["red", "dish</w>", "cat</w>"])
    [True, False, True]
    """
    if any(piece.startswith(("Ġ", "▁")) for piece in pieces):
        return [number == 0 or piece.startswith(("Ġ", "▁")) for number, piece in enumerate(pieces)]
    if any(piece.endswith("</w>") for piece in pieces):
        return [number == 0 or pieces[number - 1].endswith("</w>") for number in range(len(pieces))]
    return [number == 0 or not piece.startswith("##") for number, piece in enumerate(pieces)]


def pad_batch(
    rows: Sequence[Sequence[int]], tokenizer: Tokenizer, *, whole: bool = False
) -> tuple[Tensor, Tensor]:
    """Pad and stack encoded texts by the tokenizer's padding rule: ids (N, L) and lengths (N,),
    int64.

    L is the longest length, or the context if the rule is "max". A text ends at its first end id
    behind the special ids at its start, of which GPT-2's is the same one; even if that is spelled out
    within the text, since CLIP's towers pool there. With `whole` it ends where its row does: a dialogue
    has an end id behind each answer.
    """
    start = len(tokenizer.before)
    ends = [len(row) if whole else _end(row, tokenizer.eot, start) for row in rows]
    lengths = torch.tensor(ends, dtype=torch.int64)
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


def _end(row: Sequence[int], eot: int | None, start: int) -> int:
    try:
        return len(row) if eot is None else row.index(eot, start) + 1
    except ValueError:
        return len(row)
