"""Reports in several variants: sections are kept, the sentences of each are shuffled.

Dimensions: B samples, K variants, L text length.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.data.sample import BadSample, Sample
from diptych.data.tokenizers import Tokenizer
from diptych.data.views.dialogue import written

_HEAD = re.compile(r"\b(findings|impression)s?:\s*", re.IGNORECASE)
_NUMBER = re.compile(r"(?:^|(?<=\n)|(?<=[.;:!?]\s))\(?\d{1,2}[.)]\s+(?=\S)")
_END = re.compile(r"(?<=[.!?;])\s+(?=\S)|\n+")
_ABBREVIATION = re.compile(
    r"(?:\b[A-Za-z]\.){2,}$|\b(?:approx|cf|dr|e\.g|fig|i\.e|no|vs)\.$", re.IGNORECASE
)


def sentences(text: str) -> list[str]:
    """The sentences of a section, with their final stops; numbers of a list are removed first.

    Numbers with decimals and names with stops, such as R.E.N.A.L., are kept whole.

    >>> sentences("1. A mass of 3.5 cm. 2. The R.E.N.A.L. score is 7. No stone!")
    ['A mass of 3.5 cm.', 'The R.E.N.A.L. score is 7.', 'No stone!']
    """
    parts = _END.split(_NUMBER.sub(" ", text).strip())
    found: list[str] = []
    for part in (part.strip() for part in parts):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] += f" {part}"
        elif part:
            found.append(part)
    return found


def sections(report: str) -> list[tuple[str, str]]:
    """The sections of a report as (heading, text); a text without headings is one section "".

    >>> sections("Findings: A cyst. No stone.\\nImpression: Benign.")
    [('Findings: ', 'A cyst. No stone.'), ('Impression: ', 'Benign.')]
    """
    parts = _HEAD.split(report.strip())
    found = [("", parts[0].strip())] if parts[0].strip() else []
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        found.append((f"{name.capitalize()}: ", text.strip()))
    return found


def shuffled(report: str, rng: np.random.Generator) -> str:
    """The report with the sentences of each section in random order.

    >>> shuffled("Findings: A cyst. No stone.\\nImpression: Benign.", np.random.default_rng(3))
    'Findings: No stone. A cyst.\\nImpression: Benign.'
    """
    written = []
    for head, text in sections(report):
        own = sentences(text)
        written.append(head + " ".join(own[at] for at in rng.permutation(len(own))))
    return "\n".join(written)


def completed(report: str, side: str) -> str:
    """The report, whose findings, if their section is empty, say that the kidney of a side is
    normal.

    >>> completed("Findings:\\nImpression: Normal.", "left")
    'Findings: No abnormalities in the left kidney.\\nImpression: Normal.'
    """
    written = []
    for head, text in sections(report):
        missing = head == "Findings: " and not text
        written.append(head + (f"No abnormalities in the {side} kidney." if missing else text))
    return "\n".join(written)


def report_of(sample: Sample, role: str, side: str, sides: Sequence[str]) -> str:
    """The first text of `role`, completed for the side that the label `side` has among the names `sides`.

    Raises BadSample("no-caption") if the sample has no text of `role`.
    """
    texts = [text for text in sample.captions(role) if text.strip()]
    if not texts:
        raise BadSample("no-caption", f"no text of role {role!r}")
    at = int(sample.labels.get(side, -1))
    return completed(texts[0], sides[at]) if 0 <= at < len(sides) else texts[0]


@dataclass(frozen=True, kw_only=True)
class ReportView:
    """A sample's report behind a prompt, texts.main (B, 1, L), of at most `length` ids; its marks are the
    report and its end, which are written. `side` and `sides` are those of `report_of`, whose BadSample
    it raises."""

    tokenizer: Tokenizer
    length: int
    prompt: str = ""
    role: str = "caption"
    side: str = "side"
    sides: Sequence[str] = ()
    gives = ("texts.main",)

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"texts.{self.role}",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        report = report_of(sample, self.role, self.side, self.sides)
        return {"texts.main": [written(self.tokenizer, [(self.prompt, report)], self.length)]}


@dataclass(frozen=True, kw_only=True)
class VariantsView:
    """`count` variants of a sample's report as ids (B, K, L): the report, then it with shuffled
    sentences. `sides` are the names of the label `side`, for reports without findings.

    Raises BadSample("no-caption") if the sample has no text of `role`.
    """

    tokenizer: Tokenizer
    role: str = "caption"
    count: int = 5
    side: str = "side"
    sides: Sequence[str] = ()
    name: str = "variants"

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"texts.{self.role}",)

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"texts.{self.name}",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        report = report_of(sample, self.role, self.side, self.sides)
        variants = [report, *(shuffled(report, rng) for _ in range(self.count - 1))]
        return {self.gives[0]: self.tokenizer.encode(variants)}
