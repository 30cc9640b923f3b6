"""Views of texts: mixtures of roles, augmented words, sentences of long texts.

Dimensions: B samples, C captions, L text length.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diptych.data.eda import synonyms, varied, without_stop_words
from diptych.data.sample import BadSample, Sample
from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError

_FORM = re.compile(r"(?P<roles>(?:[^=\[\]]|\[[^=\[\]]+=[^=\[\]]*\])+)(?:=(?P<weight>.*))?")


@dataclass(frozen=True, kw_only=True)
class TextView:
    """Texts of a sample as token ids (B, C, L): `count` random ones in training, else the first
    ones.

    `role` is the role of the texts, or a mixture of forms. "caption=0.7,caption+tags=0.3" draws a
    caption with probability 0.7, else a caption and a text of role tags, joined by `between`.
    "long*" is all texts of role long, in order, joined by spaces; "long|question|answer*" is all
    texts of these roles, in the sample's order. "long[fact=place]" are those whose attribute `fact`
    is "place".

    Only the forms whose roles a sample has are drawn; outside training, or with `first`, the first
    of them is used. A sample with fewer texts than `count` repeats them; with repeat=False it must have
    as many different ones, else BadSample("few-captions") is raised. With `like` and the same roles,
    the texts are those of another view, tokenized by this view's tokenizer. Raises
    BadSample("no-caption") if a sample has no text of any form.
    """

    tokenizer: Tokenizer
    name: str = "main"
    role: str = "caption"
    count: int = 1
    repeat: bool = True
    like: str | None = None
    between: str = ", "
    first: bool = False

    @cached_property
    def forms(self) -> list[tuple[tuple[str, ...], float]]:
        """The roles of each form, with its weight."""
        forms = []
        for part in self.role.split(","):
            found = _FORM.fullmatch(part.strip())
            if not found:
                raise InputError(
                    f"role {self.role!r}: {part!r} is no role; write ROLE=WEIGHT,… or ROLE[NAME=VALUE]"
                )
            try:
                forms.append((tuple(found["roles"].split("+")), float(found["weight"] or 1)))
            except ValueError:
                raise InputError(
                    f"role {self.role!r}: {found['weight']!r} is no number; write ROLE=WEIGHT,…"
                ) from None
        return forms

    @property
    def reads(self) -> tuple[str, ...]:
        every = (field for roles, _ in self.forms for role in roles for field in _fields(role))
        return tuple(dict.fromkeys(every))

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"texts.{self.name}",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        texts = self.drawn(sample, rng, progress)
        return {f"texts.{self.name}": self.tokenizer.encode(texts)}

    def drawn(self, sample: Sample, rng: np.random.Generator, progress: float | None) -> list[str]:
        """The texts of a sample, `count` of them."""
        held = {
            _bare(role): _texts(sample, _bare(role)) for roles, _ in self.forms for role in roles
        }
        if not self.repeat:
            held = {name: list(dict.fromkeys(texts)) for name, texts in held.items()}
        possible = [
            (roles, weight)
            for roles, weight in self.forms
            if all(
                len(held[_bare(role)]) >= (1 if _is_whole(role) else roles.count(role))
                for role in roles
            )
        ]
        if not possible:
            raise BadSample("no-caption", f"no text of role {self.role!r}")
        most = max(map(len, held.values()))
        if most < self.count and not self.repeat:
            raise BadSample(
                "few-captions", f"{most} texts of role {self.role!r} for {self.count} views"
            )
        orders = {name: list(texts) for name, texts in held.items()}
        drawn = []
        for number in range(self.count):
            roles = possible[0][0]
            if progress is not None:
                if number % most == 0:  # all texts once before any twice
                    orders = {
                        name: [texts[i] for i in rng.permutation(len(texts))]
                        for name, texts in held.items()
                    }
                if not self.first:
                    weights = np.cumsum([weight for _, weight in possible])
                    drawn_at = np.searchsorted(weights, rng.uniform(0, weights[-1]), side="right")
                    roles = possible[int(drawn_at)][0]
            parts = [" ".join(held[_bare(r)]) if _is_whole(r) else _take(orders[r]) for r in roles]
            drawn.append(self.said(self.between.join(parts), rng, progress))
        return drawn

    def said(self, text: str, rng: np.random.Generator, progress: float | None) -> str:
        """The text to encode for a text that was drawn; subclasses may change it."""
        return text


def _is_whole(role: str) -> bool:
    """Whether a part of a form means all texts of its role, as "long*" does ("*" alone is any
    role)."""
    return len(role) > 1 and role.endswith("*")


def _bare(role: str) -> str:
    """A role without the star that means all of its texts."""
    return role[:-1] if _is_whole(role) else role


def _fields(role: str) -> list[str]:
    """The fields of a source that a role is read from.

    >>> _fields("caption"), _fields("long*"), _fields("long[fact=place]"), _fields("*")
    (['texts.caption'], ['texts.long'], ['texts.long'], ['texts.*'])
    >>> _fields("question|answer*")
    ['texts.question', 'texts.answer']
    """
    return [f"texts.{name}" for name in _bare(role).partition("[")[0].split("|")]


def _texts(sample: Sample, role: str) -> list[str]:
    """The non-empty texts of a role, filtered by the role's attribute condition if it has one.

    Of several roles joined by "|", none if one of them has no text.
    """
    names, _, condition = role.removesuffix("]").partition("[")
    attribute, _, value = condition.partition("=")
    wanted = names.split("|")
    found = [
        text
        for text in sample.texts
        if (text.role in wanted or wanted == ["*"])
        and text.text.strip()
        and (not condition or str(text.attrs.get(attribute)) == value)
    ]
    if len(wanted) > 1 and len({text.role for text in found}) < len(wanted):
        return []
    return [text.text for text in found]


def _take(order: list[str]) -> str:
    """The next text, which moves to the end of the list."""
    text = order.pop(0)
    order.append(text)
    return text


@dataclass(frozen=True, kw_only=True)
class VariedTextView(TextView):
    """Texts of `TextView`, augmented in training (`data.eda`).

    Stop words are removed with probability `stop_words`. If `strong`, one of synonym replacement
    (by the table `synonyms`), swap or deletion follows.
    """

    stop_words: float = 0.8
    strong: bool = False
    synonyms: str = "none"

    def said(self, text: str, rng: np.random.Generator, progress: float | None) -> str:
        if progress is None:
            return text
        if rng.uniform() < self.stop_words:
            text = without_stop_words(text)
        return varied(text, rng, synonyms(self.synonyms)) if self.strong else text


@dataclass(frozen=True, kw_only=True)
class SentenceView:
    """`count` sentences of a sample's texts of some roles, as token ids (B, C, L).

    In training, sentences are drawn without replacement if there are enough, else with it; outside
    training they are the first ones. Each is `merged` consecutive sentences of a role joined into
    one. Raises BadSample("no-caption") if there is no sentence.
    """

    tokenizer: Tokenizer
    name: str = "sentences"
    roles: tuple[str, ...] = ("caption", "long")
    count: int = 1
    merged: int = 1

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(f"texts.{role}" for role in self.roles)

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"texts.{self.name}",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        pool = []
        for role in self.roles:
            said = [part for text in sample.captions(role) for part in sentences(text)]
            last = max(1, len(said) - self.merged + 1)
            pool += [merged(said[at : at + self.merged]) for at in range(last) if said]
        if not pool:
            raise BadSample("no-caption", f"no sentence in texts of role {' or '.join(self.roles)}")
        if progress is None:
            rows = np.arange(self.count) % len(pool)
        else:
            rows = rng.choice(len(pool), self.count, replace=len(pool) < self.count)
        return {f"texts.{self.name}": self.tokenizer.encode([pool[row] for row in rows])}


def sentences(text: str) -> list[str]:
    """Split a text into sentences by sentencex's rules for English.

    Sentences end at a full stop, ! or ?, unless it belongs to an abbreviation or a number, and at
    line breaks and "</s>". Final full stops and surrounding whitespace are removed.

    >>> sentences("A red cat. Is Dr. Lee in the U.S.? No!\\n\\nA lamp of 3.5 kg.</s>")
    ['A red cat', 'Is Dr. Lee in the U.S.?', 'No!', 'A lamp of 3.5 kg']
    """
    from sentencex import segment  # pyright: ignore  # compiled, without types; only few runs cut texts

    parts = (
        part.strip().removesuffix(".").rstrip()
        for line in _LINE.split(text)
        for part in segment("en", line)
    )
    return [part for part in parts if part.strip(". ")]


def merged(said: list[str]) -> str:
    """Join sentences into one text.

    >>> merged(["A red cat", "Is it wet?", "No"])
    'A red cat. Is it wet? No'
    """
    return " ".join(part if part[-1] in "!?" else f"{part}." for part in said).removesuffix(".")


_LINE = re.compile(r"\n|</s>")
