"""`reports`: radiographs of chests, with reports of two sections that share no names, and boxes of
phrases.

draw.py   images                words.py   names and sentences
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from diptych.data.sample import Box, Field, Sample, Schema, Text
from diptych.data.worlds import _base
from diptych.data.worlds._base import Drawn, Rendered
from diptych.data.worlds.reports.draw import box_of, draw
from diptych.data.worlds.reports.words import (
    CLASSES,
    KINDS,
    NORMAL,
    SECTIONS,
    absent,
    pick,
    present,
    written,
)
from diptych.errors import InputError, unknown
from diptych.rng import generator

card = {"title": "Radiographs with reports of two sections, and boxes of phrases"}

SPLITS = ("train", "val", "test")
_BOUNDS = {"size": (32, 512), "number": (1, 4), "missing": (0, 1), "normal": (0, 1)}
"""The least and the most of options."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of reports.

    size       side in pixels, 32 to 512
    split      train, val or test, three streams that are alike
    number     the most findings of an image, up to 4
    normal     the share of images without any
    missing    the share of reports that lack one of the two sections
    phrases    the section in whose words phrases are: impression or findings
    images     false: texts alone
    inference  add a premise (caption), a hypothesis (question) and whether the one entails the other
    """

    size: int = 64
    split: str = "train"
    number: int = 3
    normal: float = 0.1
    missing: float = 0.0
    phrases: str = "impression"
    images: bool = True
    inference: bool = False

    def __post_init__(self) -> None:
        for option, (least, most) in _BOUNDS.items():
            value = getattr(self, option)
            if not least <= value <= most:
                raise InputError(
                    f"option {option!r} of world 'reports' is {value}; it must be {least} to {most}"
                )
        if self.split not in SPLITS:
            raise unknown("split of reports", self.split, SPLITS)
        if self.phrases not in SECTIONS:
            raise unknown("phrases of reports", self.phrases, SECTIONS)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A finding: its kind, the patient's side, the level, the size, and the place in [-1, 1]."""

    kind: str
    left: bool
    lower: bool
    large: bool
    place: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an image shows, which kinds the report denies, the section that it lacks ("" for none),
    and the seed of texture and words."""

    findings: tuple[Finding, ...]
    denied: tuple[str, ...]
    lacking: str
    seed: int


class World(_base.World[Facts]):
    """Reports of a config.

    >>> world = World(Config())
    >>> for text in world.captions(world.sample(seed=0, index=4)):
    ...     print(text.text)
    Normal heart and lungs. No hazy area is identified.
    No evidence of infection. Healthy chest.
    """

    name: ClassVar[str] = "reports"
    config: Config

    def key(self, seed: int, index: int) -> str:
        """The unique key, which contains the split since each split has its own stream."""
        return f"{self.config.split}-{super().key(seed, index)}"

    def sample(self, seed: int, index: int) -> Facts:
        """The facts of a sample."""
        config = self.config
        rng = generator(seed, self.name, config.split, index)
        normal = rng.random() < config.normal
        lacking = SECTIONS[int(rng.integers(2))] if rng.random() < config.missing else ""
        kinds = [KINDS[at] for at in rng.permutation(len(KINDS))]
        cells = rng.permutation(4).tolist()
        count = 0 if normal else int(rng.integers(1, config.number + 1))
        found = tuple(
            _finding(kind, cell, rng) for kind, cell in zip(kinds[:count], cells, strict=False)
        )
        denied = tuple(kinds[count : count + int(rng.integers(1, 3))])
        return Facts(findings=found, denied=denied, lacking=lacking, seed=int(rng.integers(2**63)))

    def render(self, facts: Facts) -> Rendered:
        """The image, and the boxes of its phrases."""
        pixels, where = draw(facts.findings, self.config.size, facts.seed)
        boxes = [
            Box(xyxy=box_of(mask), text=phrase, label=KINDS.index(finding.kind))
            for mask, phrase, finding in zip(
                where, self.phrases(facts), facts.findings, strict=True
            )
        ]
        return Rendered(image=Image.fromarray(pixels), boxes=boxes)

    def phrases(self, facts: Facts) -> list[str]:
        """A phrase for each finding."""
        rng = generator(facts.seed, "phrases")
        return [_said(self.config.phrases, finding, rng) for finding in facts.findings]

    def captions(self, facts: Facts) -> list[Text]:
        """The sections of the report, whose sentences are in random order."""
        found = [
            Text(text=self._section(facts, section), role=section)
            for section in SECTIONS
            if section != facts.lacking
        ]
        return found + (self._inference(facts)[0] if self.config.inference else [])

    def _section(self, facts: Facts, section: str) -> str:
        rng = generator(facts.seed, section)
        said = [_said(section, finding, rng) for finding in facts.findings]
        denied = facts.denied if section == "findings" else facts.denied[:1]
        said += [absent(section, kind, rng) for kind in denied]
        said += [] if facts.findings else [pick(NORMAL[section], rng)]
        return written([said[at] for at in rng.permutation(len(said))])

    def _inference(self, facts: Facts) -> tuple[list[Text], int]:
        """A sentence of the findings, one of the impression, and how the second follows."""
        rng = generator(facts.seed, "inference")
        label = int(rng.integers(len(CLASSES)))
        about = facts.findings[0] if facts.findings and rng.random() < 0.5 else None
        kind = about.kind if about else facts.denied[0]
        premise = _said("findings", about, rng) if about else absent("findings", kind, rng)
        others = [each for each in KINDS if each != kind]
        if CLASSES[label] == "neutral":
            kind = others[int(rng.integers(len(others)))]
            about = _finding(kind, int(rng.integers(4)), rng) if rng.random() < 0.5 else None
        elif CLASSES[label] == "contradiction":
            about = None if about else _finding(kind, int(rng.integers(4)), rng)
        hypothesis = _said("impression", about, rng) if about else absent("impression", kind, rng)
        texts = [
            Text(text=premise),
            Text(text=hypothesis, role="question", attrs={"choices": CLASSES}),
            Text(text=CLASSES[label], role="answer"),
        ]
        return texts, label

    def texts_of(self, label: str, name: str, count: int, seed: int = 0) -> list[str]:
        """`count` different sentences of the impression that a kind is there, or is not.

        >>> World(Config()).texts_of("nodule", "no nodule", 2)
        ['neoplasm is excluded', 'without sign of granuloma']
        """
        if label not in KINDS:
            raise unknown("label of reports", label, KINDS)
        rng = generator(seed, label, name)
        found: dict[str, None] = {}
        while len(found) < count:
            there = not name.startswith("no ")
            finding = _finding(label, int(rng.integers(4)), rng)
            said = _said("impression", finding, rng) if there else absent("impression", label, rng)
            found[said] = None
        return list(found)

    def example(self, facts: Facts, key: str) -> Sample:
        """The sample of some facts."""
        drawn = Drawn(self, facts)
        shown = {finding.kind for finding in facts.findings}
        labels = {kind: int(kind in shown) for kind in KINDS}
        if self.config.inference:
            labels["entailment"] = self._inference(facts)[1]
        return Sample(
            key=key,
            source=self.name,
            images={"main": drawn.image()} if self.config.images else {},
            texts=self.captions(facts),
            labels=labels,
            boxes=drawn.boxes(len(facts.findings)) if self.config.images else (),
        )

    def schema(self) -> Schema:
        """Images, sections, a label for each kind, and boxes of phrases."""
        config = self.config
        found: dict[str, Field] = {}
        if config.images:
            found |= {"images.main": Field(kind="image"), "boxes": Field(kind="box", classes=KINDS)}
        for section in SECTIONS:
            found[f"texts.{section}"] = Field(kind="text", optional=config.missing > 0)
        found |= {
            f"labels.{kind}": Field(kind="int", classes=(f"no {kind}", kind)) for kind in KINDS
        }
        if config.inference:
            for role in ("caption", "question", "answer"):
                found[f"texts.{role}"] = Field(kind="text")
            found["labels.entailment"] = Field(kind="int", classes=CLASSES)
        return found


def _finding(kind: str, cell: int, rng: np.random.Generator) -> Finding:
    """A finding of a kind in one of the four halves of lungs."""
    left = bool(cell % 2)
    lower = bool(cell // 2)
    x = (0.47 if left else -0.47) + float(rng.uniform(-0.12, 0.12))
    y = (0.36 if lower else -0.36) + float(rng.uniform(-0.12, 0.12))
    return Finding(kind=kind, left=left, lower=lower, large=bool(rng.random() < 0.5), place=(x, y))


def _said(section: str, finding: Finding, rng: np.random.Generator) -> str:
    return present(section, finding.kind, finding.left, finding.lower, finding.large, rng)


__all__ = ["Config", "Facts", "Finding", "World"]
