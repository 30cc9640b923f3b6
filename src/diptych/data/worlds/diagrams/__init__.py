"""`diagrams`: figures of plane geometry, drawn from programs that a caption states in full.

program.py   programs and their facts        edits.py     random figures and minimal edits
figures.py   shapes and what holds in them   captions.py  captions and their parser
draw.py      pixels                             questions.py questions with answers
"""

from dataclasses import dataclass
from typing import ClassVar

from diptych.data.sample import Field, Sample, Schema, Text
from diptych.data.worlds import _base
from diptych.data.worlds._base import Drawn, Rendered
from diptych.data.worlds.diagrams.captions import caption_of, parse
from diptych.data.worlds.diagrams.draw import draw
from diptych.data.worlds.diagrams.edits import EDITS, drawn, edits_of
from diptych.data.worlds.diagrams.figures import SHAPES, Figure, program_of
from diptych.data.worlds.diagrams.program import RELATIONS, Program, other_orders, ring
from diptych.data.worlds.diagrams.questions import ASKED, questions_of
from diptych.errors import InputError, unknown
from diptych.rng import generator
from diptych.spec import several

card = {
    "title": "Figures of plane geometry with letters, lengths and relations, drawn from programs"
}

SPLITS = ("train", "val", "test")
_BOUNDS = {
    "size": (32, 512),
    "numbers": (3, 99),
    "lengths": (0, 2),
    "turn": (0, 180),
    "number": (1, 99),
}
"""The least and the most of options."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of diagrams; several values of an option are joined by `+`.

    size      side in pixels, 32 to 512
    split     train, val or test, three streams that are alike
    letters   the letters of points, at least five
    numbers   the longest length; lengths are whole numbers from 2
    lengths   how many sides have a length, at most two
    turn      most degrees that a figure is turned by, either way
    edits     kinds of edits of each sample, or `all`: letters, number, relation, shape; and renamed,
              other names of the same figure, which is no change
    number    edits of each sample, of its kinds in turn; fewer where a figure permits no more
    questions kinds of questions of each sample and edit, or `all`: letters, number, relation, shape
    """

    size: int = 64
    split: str = "train"
    letters: str = "ABCDEFGHKLMNPRST"
    numbers: int = 9
    lengths: int = 1
    turn: float = 20.0
    edits: str = ""
    number: int = 9
    questions: str = ""

    def __post_init__(self) -> None:
        for option, (least, most) in _BOUNDS.items():
            value = getattr(self, option)
            if not least <= value <= most:
                raise InputError(
                    f"option {option!r} of world 'diagrams' is {value}; it must be {least} to {most}"
                )
        if self.split not in SPLITS:
            raise unknown("split of diagrams", self.split, SPLITS)
        letters = set(self.letters)
        if (
            len(letters) < max(5, len(self.letters))
            or not self.letters.isalpha()
            or not self.letters.isupper()
        ):
            raise InputError(
                f"option 'letters' of world 'diagrams' is {self.letters!r}; it must be five or more different capitals"
            )
        if self.asked == ("number",) and not self.lengths:
            raise InputError(
                "world 'diagrams': questions=number asks for lengths, and lengths=0 draws none; leave one of them out"
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of edits."""
        if self.edits == "all":
            return EDITS[:-1]
        return several("edit of diagrams", self.edits, EDITS) if self.edits else ()

    @property
    def asked(self) -> tuple[str, ...]:
        """The kinds of questions."""
        if self.questions == "all":
            return ASKED
        return several("question of diagrams", self.questions, ASKED) if self.questions else ()


class World(_base.World[Figure]):
    """Diagrams of a config.

    >>> world = World(Config(edits="number"))
    >>> figure = world.sample(seed=0, index=7)
    >>> for each in (figure, world.edit(figure, "number")):
    ...     print(world.captions(each)[0].text)
    circle D is inscribed in CKH and HC = 6 in equilateral triangle CKH
    circle D is inscribed in CKH and HC = 5 in equilateral triangle CKH
    """

    name: ClassVar[str] = "diagrams"
    kinds: ClassVar[tuple[str, ...]] = EDITS
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.numbers = tuple(range(2, config.numbers + 1))
        self.edits = config.kinds
        self.asked = config.asked

    def key(self, seed: int, index: int) -> str:
        """The unique key, which contains the split since each split has its own stream."""
        return f"{self.config.split}-{super().key(seed, index)}"

    def sample(self, seed: int, index: int) -> Figure:
        """The facts of a sample."""
        config = self.config
        rng = generator(seed, self.name, config.split, index)
        return drawn(rng, config.letters, self.numbers, config.lengths, config.turn)

    def render(self, facts: Figure) -> Rendered:
        """The drawing."""
        return Rendered(image=draw(program_of(facts), self.config.size))

    def captions(self, facts: Figure) -> list[Text]:
        """The caption, which states every fact of the figure, and questions with their answers."""
        found = [Text(text=caption_of(program_of(facts), facts.seed))]
        for each in questions_of(facts, self.asked, self.numbers):
            about = {"choices": each.choices, "kind": each.kind}
            found.append(Text(text=each.text, role="question", attrs=about))
            found.append(Text(text=each.answer, role="answer"))
        return found

    def edit(self, facts: Figure, kind: str) -> Figure:
        """The first edit of a kind. Raises InputError for an unknown kind, and if the figure permits
        none."""
        if kind not in EDITS:
            return super().edit(facts, kind)
        found = edits_of(facts, (kind,), 1, self.numbers)
        if not found:
            raise InputError(
                f"{self.captions(facts)[0].text!r} leaves no room for the edit {kind!r}; take another kind or figure"
            )
        return found[0]

    def example(self, facts: Figure, key: str) -> Sample:
        """The sample of a figure, with the edits in the config."""
        kinds = () if facts.kind else self.edits
        edits = edits_of(facts, kinds, self.config.number, self.numbers)
        number = facts.lengths[0][1] if facts.lengths else -1
        return Sample(
            key=key,
            source=self.name,
            images={"main": Drawn(self, facts).image()},
            texts=self.captions(facts),
            labels={
                "shape": list(SHAPES).index(facts.shape),
                "relation": RELATIONS.index(facts.relation[0]),
                "number": number,
            },
            edits=[self.example(edit, f"{key}/{at}") for at, edit in enumerate(edits)],
            kind=facts.kind,
        )

    def schema(self) -> Schema:
        """The image, the caption, labels of the shape, the relation and the first length, questions with
        answers, and edits."""
        found = {
            "images.main": Field(kind="image"),
            "texts.caption": Field(kind="text"),
            "labels.shape": Field(kind="int", classes=tuple(SHAPES)),
            "labels.relation": Field(kind="int", classes=RELATIONS),
            "labels.number": Field(kind="int"),
        }
        if self.asked:
            found |= {
                "texts.question": Field(kind="text"),
                "texts.answer": Field(kind="text"),
            }
        return found | ({"edits": Field(kind="edit", optional=True)} if self.edits else {})


__all__ = [
    "Config", "Figure", "Program", "World", "caption_of", "card", "draw", "other_orders", "parse", "program_of", "ring"
]  # fmt: skip
