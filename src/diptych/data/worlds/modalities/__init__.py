"""Images of six medical modalities with findings, some with a report's words and some with a class
alone.

`draw` draws textures and findings, `words` holds names and sentences. docs/worlds/modalities.md shows
samples.
"""

from dataclasses import dataclass

from PIL import Image

from diptych.data import worlds
from diptych.data.sample import Field, Sample, Schema, Text
from diptych.data.worlds import Drawn, Rendered
from diptych.data.worlds.modalities.draw import draw
from diptych.data.worlds.modalities.words import (
    CLASSES,
    MODALITIES,
    SENTENCES,
    SIDES,
    SIZES,
    class_name,
    sentence,
    sentences,
)
from diptych.errors import InputError, unknown
from diptych.rng import generator
from diptych.spec import several

card = {"title": "Medical images of six modalities, with captions or with classes alone"}

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the world.

    `split` is train, val or test, three streams; `size` the side in pixels; `modalities` some of
    x-ray, ct, mri, ultrasound, histology and fundus, joined by `+`. `captioned` is the share of
    samples that have a caption. `wordings` are the sentences of captions and of class texts: seen,
    or reserved, which share no sentence with them.
    """

    split: str = "train"
    size: int = 32
    modalities: str = "all"
    captioned: float = 1.0
    wordings: str = "seen"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an image shows: class, place (x, y) in [-1, 1], radius, whether it has a caption, and the
    seed of texture and words."""

    number: int
    place: tuple[float, float]
    radius: float
    captioned: bool
    seed: int


class World(worlds.World[Facts]):
    """The world of a `Config`.

    >>> world = World(Config())
    >>> facts = world.sample(0, 1)
    >>> world.classes[facts.number]
    'retinal haemorrhage on fundus photograph'
    >>> [text.text for text in world.captions(facts)]
    ['retinal image: small retinal haemorrhage on the right']
    """

    name = "modalities"

    def __init__(self, config: Config):
        super().__init__(config)
        for option, choices in (("split", SPLITS), ("wordings", SENTENCES)):
            if (given := getattr(config, option)) not in choices:
                raise unknown(f"{option} of modalities", given, choices)
        if not 16 <= config.size <= 224:
            raise InputError(f"size of modalities is {config.size}; it must be from 16 to 224")
        if not 0 <= config.captioned <= 1:
            raise InputError(
                f"captioned of modalities is {config.captioned}; it is a share, from 0 to 1"
            )
        self.kept = several("modality of modalities", config.modalities, tuple(MODALITIES))
        self.numbers = [at for at, (each, _) in enumerate(CLASSES) if each in self.kept]
        self.classes = tuple(class_name(*CLASSES[number]) for number in self.numbers)

    def key(self, seed: int, index: int) -> str:
        """The unique key of the sample (seed, index)."""
        return f"{self.config.split}-{super().key(seed, index)}"

    def sample(self, seed: int, index: int) -> Facts:
        """The facts of sample `index` of the stream `seed` of the config's split."""
        rng = generator(seed, self.name, self.config.split, index)
        private = int(rng.integers(2**63))
        captioned = bool(rng.random() < self.config.captioned)
        side = -1 if rng.random() < 0.5 else 1
        place = (side * float(rng.uniform(0.2, 0.45)), float(rng.uniform(-0.35, 0.35)))
        large = rng.random() < 0.5
        radius = float(rng.uniform(0.26, 0.32) if large else rng.uniform(0.17, 0.22))
        number = int(rng.integers(len(self.numbers)))
        return Facts(number=number, place=place, radius=radius, captioned=captioned, seed=private)

    def described(self, facts: Facts) -> tuple[str, str]:
        """The modality and the finding of some facts."""
        return CLASSES[self.numbers[facts.number]]

    def render(self, facts: Facts) -> Rendered:
        pixels, mask = draw(
            *self.described(facts), facts.place, facts.radius, self.config.size, facts.seed
        )
        return Rendered(image=Image.fromarray(pixels), masks={"finding": Image.fromarray(mask)})

    def captions(self, facts: Facts) -> list[Text]:
        """The caption, if there is one: the finding with its size and side."""
        if not facts.captioned:
            return []
        modality, finding = self.described(facts)
        rng = generator(facts.seed, "caption")
        if finding == "normal":
            return [Text(text=sentence(modality, finding, self.config.wordings, rng))]
        size = SIZES[facts.radius > 0.24]
        words = sentence(modality, finding, self.config.wordings, rng, size)
        return [Text(text=f"{words} on the {SIDES[facts.place[0] > 0]}")]

    def texts_of(self, label: str, name: str, count: int, seed: int = 0) -> list[str]:
        """`count` different sentences about a class, which say nothing of one image.

        >>> World(Config()).texts_of("class", "gallstone on ultrasound", 2)
        ['hard concretion, b-mode scan', 'the ultrasound of a patient with echogenic stone']
        """
        if label != "class":
            raise InputError(
                f"modalities writes texts of its label 'class', and not of {label!r}; write --of class"
            )
        modality, finding = CLASSES[self.numbers[self.classes.index(name)]]
        wordings = self.config.wordings
        rng = generator(seed, "class", name, wordings)
        return sentences(modality, finding, wordings, count, rng)

    def example(self, facts: Facts, key: str) -> Sample:
        """The sample of some facts."""
        drawn = Drawn(self, facts)
        modality, finding = self.described(facts)
        labels = {
            "class": facts.number,
            "modality": self.kept.index(modality),
            "side": -1 if finding == "normal" else int(facts.place[0] > 0),
        }
        return Sample(
            key=key,
            source=self.name,
            images={"main": drawn.image()},
            texts=self.captions(facts),
            labels=labels,
            masks={"finding": drawn.mask("finding")},
        )

    def schema(self) -> Schema:
        """Images, the mask of the finding, class, modality, side, and captions if there are any."""
        share = self.config.captioned
        captions = {"texts.caption": Field(kind="text", optional=share < 1)} if share else {}
        return {
            "images.main": Field(kind="image"),
            **captions,
            "labels.class": Field(kind="int", classes=self.classes),
            "labels.modality": Field(kind="int", classes=self.kept),
            "labels.side": Field(kind="int", classes=SIDES),
            "masks.finding": Field(kind="mask", classes=("none", "finding")),
        }


__all__ = ["Config", "Facts", "World"]
