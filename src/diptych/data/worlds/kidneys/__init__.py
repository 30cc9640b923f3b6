"""CT volumes of kidneys, two a patient, in up to four contrast phases, with attributes, reports,
diagnoses and survival times.

`draw` draws volumes, `words` holds names and sentences. docs/worlds/kidneys.md shows samples.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from diptych.data import worlds
from diptych.data.sample import Field, Sample, Schema, Text
from diptych.data.volume_files import middle_slice, npy_bytes
from diptych.data.worlds import Rendered
from diptych.data.worlds.kidneys.draw import (
    SCANNERS,
    SEMI,
    SHIFT,
    SINUS,
    Grid,
    Mass,
    draw,
    towards_spine,
)
from diptych.data.worlds.kidneys.words import (
    ATTRIBUTES,
    CENTRES,
    DIAGNOSES,
    OUTCOMES,
    PHASES,
    SIDES,
    WORDS,
    key_of,
    report,
)
from diptych.errors import InputError, unknown
from diptych.rng import generator
from diptych.spec import several

card = {"title": "CT volumes of kidneys with reports, attributes and survival times"}

SPLITS = ("train", "val", "test")
DEFAULT_PHASES = ("arterial", "venous", "delayed", "plain")
"""The volume `main` is that of the first of these phases that a patient has."""

FOLLOWED = 10.0
"""The longest survival time, in years."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the world.

    `split` is train, val or test, three streams; `slices` and `size` the shape of volumes.
    `centres` are some of a, b, c and d, joined by `+`; `phases` some of plain, arterial, venous
    and delayed. `missing` is
    the share of attributes that a report does not tell, whose labels are then missing. `mass` is
    the share of kidneys with a mass. `wordings` are the sentences of reports: seen or reserved.
    `swapped` is the share of patients whose kidneys have the report of the other one.
    """

    split: str = "train"
    slices: int = 16
    size: int = 32
    centres: str = "a+b+c"
    phases: str = "all"
    missing: float = 0.3
    mass: float = 0.7
    wordings: str = "seen"
    swapped: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a report tells: a side and the values of attributes; `seed` is that of its words."""

    side: int
    values: Mapping[str, int]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A kidney: its patient and side, the patient's centre and phases, its mass with the values of
    all attributes, its report, the attributes whose labels are known, diagnoses (-1: no mass), and
    the time and event of each outcome (NaN and -1: no mass)."""

    patient: int
    side: int
    centre: str
    phases: tuple[str, ...]
    mass: Mass | None
    values: Mapping[str, int]
    said: Said
    known: tuple[str, ...]
    diagnoses: Mapping[str, int]
    times: Mapping[str, float]
    events: Mapping[str, int]
    seed: int


class World(worlds.World[Facts]):
    """The world of a `Config`. Samples 2 p and 2 p + 1 are the left and the right kidney of patient
    p.

    >>> world = World(Config(missing=0.0))
    >>> left, right = world.sample(0, 6), world.sample(0, 7)
    >>> left.patient == right.patient == 3, left.side, right.side
    (True, 0, 1)
    """

    name = "kidneys"

    def __init__(self, config: Config):
        super().__init__(config)
        for option, choices in (("split", SPLITS), ("wordings", WORDS)):
            if (given := getattr(config, option)) not in choices:
                raise unknown(f"{option} of kidneys", given, choices)
        for option, least, most in (("slices", 8, 64), ("size", 16, 160)):
            if not least <= getattr(config, option) <= most:
                raise InputError(
                    f"{option} of kidneys is {getattr(config, option)}; it must be from {least} to {most}"
                )
        for option in ("missing", "mass", "swapped"):
            if not 0 <= getattr(config, option) <= 1:
                raise InputError(
                    f"{option} of kidneys is {getattr(config, option)}; it is a share, from 0 to 1"
                )
        self.centres = several("centre of kidneys", config.centres, CENTRES)
        self.phases = several("phase of kidneys", config.phases, PHASES)

    def key(self, seed: int, index: int) -> str:
        """The unique key of the sample (seed, index)."""
        return f"{self.config.split}-{super().key(seed, index)}"

    def sample(self, seed: int, index: int) -> Facts:
        """The facts of sample `index` of the stream `seed` of the config's split."""
        facts = self._facts(seed, index)
        rng = generator(seed, self.name, self.config.split, index // 2, "swapped")
        if rng.random() >= self.config.swapped:
            return facts
        return replace(facts, said=self._facts(seed, index ^ 1).said)

    def _facts(self, seed: int, index: int) -> Facts:
        """The facts of a kidney with its own report."""
        patient, side = divmod(index, 2)
        shared = generator(seed, self.name, self.config.split, patient, "patient")
        centre = self.centres[int(shared.integers(len(self.centres)))]
        held = shared.random(len(PHASES)) < 0.7
        phases = tuple(name for name, has in zip(PHASES, held, strict=True) if has)
        phases = tuple(name for name in phases if name in self.phases)
        rng = generator(seed, self.name, self.config.split, patient, "kidney", side)
        values, mass = _mass(side, rng, self.config.mass)
        diagnoses, times, events = _course(values, rng)
        drawn = rng.random(len(ATTRIBUTES))
        known = tuple(
            name
            for name, at in zip(ATTRIBUTES, drawn, strict=True)
            if name in values and at >= self.config.missing
        )
        private = int(rng.integers(2**63))
        return Facts(
            patient=patient,
            side=side,
            centre=centre,
            phases=phases or (self.phases[int(shared.integers(len(self.phases)))],),
            mass=mass,
            values=values,
            said=Said(side=side, values={name: values[name] for name in known}, seed=private),
            known=known,
            diagnoses=diagnoses,
            times=times,
            events=events,
            seed=private,
        )

    def volume(self, facts: Facts, phase: str) -> tuple[Grid, np.ndarray]:
        """The volume of a phase in Hounsfield units, and what its voxels are: 0 fat, 1 kidney, 2
        mass."""
        scanner = SCANNERS[facts.centre]
        config = self.config
        return draw(facts.side, facts.mass, phase, scanner, config.slices, config.size, facts.seed)

    def main_phase(self, facts: Facts) -> str:
        """The phase of the volume `main`."""
        return next(name for name in DEFAULT_PHASES if name in facts.phases)

    def render(self, facts: Facts) -> Rendered:
        """The middle slice of the volume `main`."""
        return Rendered(image=middle_slice(self.volume(facts, self.main_phase(facts))[0]))

    def captions(self, facts: Facts) -> list[Text]:
        """The report."""
        said = facts.said
        rng = generator(said.seed, "report")
        asides = int(rng.integers(3))
        wordings = self.config.wordings
        return [Text(text=report(SIDES[said.side], said.values, wordings, asides, rng))]

    def texts_of(self, label: str, name: str, count: int, seed: int = 0) -> list[str]:
        """`count` different sentences about a value of an attribute, or all if there are fewer.

        >>> World(Config()).texts_of("kind", "cyst", 2)
        ['a fluid-filled lesion is seen', 'a water-dense cyst is noted']
        """
        if label not in ATTRIBUTES:
            raise InputError(
                f"kidneys writes texts of its attributes, {', '.join(ATTRIBUTES)}, and not of {label!r}"
            )
        choices = WORDS[self.config.wordings][key_of(label, name)]
        order = generator(seed, label, name).permutation(len(choices))
        return [choices[int(at)] for at in order[:count]]

    def example(self, facts: Facts, key: str) -> Sample:
        """The sample of some facts."""
        volumes = {phase: DrawnVolume(self, facts, phase) for phase in facts.phases}
        labels: dict[str, int | float] = {
            "patient": facts.patient,
            "side": facts.side,
            "centre": CENTRES.index(facts.centre),
            **{name: facts.values[name] if name in facts.known else -1 for name in ATTRIBUTES},
            **facts.diagnoses,
        }
        for outcome in OUTCOMES:
            labels[f"{outcome}_time"] = facts.times[outcome]
            labels[f"{outcome}_event"] = facts.events[outcome]
        return Sample(
            key=key,
            source=self.name,
            images={"main": volumes[self.main_phase(facts)], **volumes},
            texts=self.captions(facts),
            labels=labels,
        )

    def schema(self) -> Schema:
        """Volumes by phase, the report, patient, side, centre, attributes, diagnoses and
        outcomes."""
        named = {"side": SIDES, "centre": CENTRES, **ATTRIBUTES, **DIAGNOSES}
        outcomes = {}
        for outcome in OUTCOMES:
            outcomes[f"labels.{outcome}_time"] = Field(kind="float")
            outcomes[f"labels.{outcome}_event"] = Field(kind="int")
        return {
            "images.main": Field(kind="image"),
            **{f"images.{phase}": Field(kind="image", optional=True) for phase in self.phases},
            "texts.caption": Field(kind="text"),
            "labels.patient": Field(kind="int"),
            **{
                f"labels.{name}": Field(kind="int", classes=tuple(of)) for name, of in named.items()
            },
            **outcomes,
        }


@dataclass(frozen=True, slots=True)
class DrawnVolume:
    """The volume of a phase, drawn on access."""

    world: World
    facts: Facts
    phase: str

    def volume(self) -> np.ndarray:
        """The volume (D, H, W) in Hounsfield units."""
        return self.world.volume(self.facts, self.phase)[0]

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The middle slice."""
        return middle_slice(self.volume())

    def read(self) -> bytes:
        """The volume as a .npy file."""
        return npy_bytes(self.volume().astype(np.int16))


def _mass(side: int, rng: np.random.Generator, share: float) -> tuple[dict[str, int], Mass | None]:
    """The values of a kidney's attributes, and its mass if there is one."""
    there = rng.random() < share
    solid = rng.random() < 0.65
    radius = int(rng.integers(3))
    exophytic = int(rng.integers(3))
    anterior = int(rng.integers(3))
    location = int(rng.integers(3))
    enhancement = 1 + int(rng.random() < 0.5) if solid else 0
    irregular = int(rng.random() < (0.5 if solid else 0.1))
    calcified = int(rng.random() < 0.35)
    necrotic = int(solid and radius > 0 and rng.random() < 0.55)
    size = (0.17, 0.25, 0.34)[radius] * float(rng.uniform(0.94, 1.06))
    centre = _centre(side, anterior, location, size, exophytic, rng)
    if not there:
        return {"kind": 0}, None
    mass = Mass(
        centre=centre,
        radius=size,
        enhancement=enhancement,
        irregular=bool(irregular),
        calcified=bool(calcified),
        necrotic=bool(necrotic),
    )
    return {
        "kind": 2 if solid else 1,
        "radius": radius,
        "exophytic": exophytic,
        "nearness": _nearness(side, mass),
        "anterior": anterior,
        "location": location,
        "enhancement": enhancement,
        "margin": irregular,
        "calcification": calcified,
        "necrosis": necrotic,
    }, mass


def _centre(
    side: int, anterior: int, location: int, size: float, exophytic: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """The centre of a mass: in the direction of its face and pole, so far out that a share of its
    diameter is outside."""
    z = (-0.62, 0.0, 0.62)[location] + float(rng.uniform(-0.08, 0.08))
    spine = towards_spine(side)
    angle = (0.5, -0.5, 0.0)[anterior] * math.pi + float(rng.uniform(-0.2, 0.2))
    around = math.sqrt(1 - z * z)
    unit = (z, -math.sin(angle) * around, -spine * math.cos(angle) * around)
    surface = np.array(unit) * np.array(SEMI)
    outside = (-0.9, 0.0, 0.6)[exophytic] * size
    length = float(np.linalg.norm(surface))
    found = surface * ((length + outside) / length)
    return float(found[0]), float(found[1]), float(found[2])


def _nearness(side: int, mass: Mass) -> int:
    """How near a mass is to the sinus: 0 far, 1 near, 2 touching."""
    middle = np.array([0.0, 0.0, towards_spine(side) * SHIFT])
    away = np.array(mass.centre) - middle
    length = float(np.linalg.norm(away))
    reach = 1 / float(np.linalg.norm(away / length / np.array(SINUS)))  # of the sinus, that way
    gap = length - reach - mass.radius
    return 0 if gap > 0.12 else 1 if gap > 0 else 2


def _course(values: Mapping[str, int], rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Diagnoses, and the time and event of each outcome.

    A hazard grows with what the attributes say: solid, large, avid, irregular, necrotic.
    """
    noise = rng.random(2)
    waits = rng.exponential(size=len(OUTCOMES))
    followed = FOLLOWED * float(rng.uniform(0.3, 1))
    if values["kind"] == 0:
        return (
            dict.fromkeys(DIAGNOSES, -1),
            dict.fromkeys(OUTCOMES, math.nan),
            dict.fromkeys(OUTCOMES, -1),
        )
    solid = values["kind"] == 2
    harm = values["radius"] + 1.5 * values["necrosis"] + values["margin"]
    malignant = solid and noise[0] < (0.5 + 0.2 * values["enhancement"])
    aggressive = malignant and noise[1] < harm / 4.5
    risk = -3.2 + 1.2 * solid + 0.8 * harm
    times = {}
    events = {}
    for wait, outcome, rate in zip(waits, OUTCOMES, (1.0, 0.6, 0.8), strict=True):
        time = float(wait / (rate * math.exp(risk)))
        times[outcome] = min(time, followed)
        events[outcome] = int(time < followed)
    return {"malignant": int(malignant), "aggressive": int(aggressive)}, times, events


__all__ = ["Config", "DrawnVolume", "Facts", "World"]
