"""The `Sample` of a scene, and the schema of a config."""

import math
from typing import TYPE_CHECKING

from diptych.data.clips import FrameStack
from diptych.data.drawings import DESIGNS
from diptych.data.sample import EncodedImage, Field, Sample, Schema, image_of
from diptych.data.worlds._base import Drawn
from diptych.data.worlds.scenes.comparisons import TRUTHS, compared
from diptych.data.worlds.scenes.concepts import KINDS, Catalogue, table
from diptych.data.worlds.scenes.config import COMPARISON, EDITS, NOISES, Config
from diptych.data.worlds.scenes.draw import number_of, stamp_at
from diptych.data.worlds.scenes.facts import Scene
from diptych.data.worlds.scenes.film import ACTIONS, frames
from diptych.data.worlds.scenes.pairs import partner, similarity
from diptych.data.worlds.scenes.words import (
    COLOURS,
    GROUNDS,
    LINES,
    NUMBERS,
    PALETTES,
    PLACES,
    RENDERINGS,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
)

if TYPE_CHECKING:
    from diptych.data.worlds.scenes import World

PRIOR = ("against", "agrees")  # whether all coloured objects have their usual colours
UNSEEN = (
    "none",
    "colour",
    "place",
    "colour and place",
)  # which of the subject's combinations is held out


def example(world: "World", scene: Scene, key: str) -> Sample:
    """The sample of a scene; images, masks, arrays and boxes are drawn on access."""
    drawn = Drawn(world, scene)
    images: dict[str, EncodedImage] = {"main": drawn.image()}
    images |= {image_of(at): Drawn(world, page).image() for at, page in enumerate(scene.pages, 1)}
    if scene.film:
        shown = [Drawn(world, frame).image() for frame in frames(scene, world.config.film)]
        images["frames"] = FrameStack(tuple(shown), len(shown))
    if scene.before:
        images["reference"] = Drawn(world, scene.before).image()
    kinds = () if scene.change else edits_of(world.config)
    after = {kind: world.edited(scene, kind) for kind in kinds}
    return Sample(
        key=key,
        source=world.name,
        images=images,
        texts=world.captions(scene),
        labels=labels(scene, world.config, world.catalogue),
        boxes=drawn.boxes(sum(len(page.items) for page in (scene, *scene.pages))),
        masks={name: drawn.mask(name) for name in masks(world.catalogue)},
        arrays=drawn.arrays("depth", "factors"),
        edits=[example(world, edit, f"{key}/{kind}") for kind, edit in after.items() if edit],
        kind=scene.change.kind if scene.change else "",
    )


def edits_of(config: Config) -> tuple[str, ...]:
    """The kinds of edits of a sample; siblings are edits of each other and have none."""
    return config.kinds if config.siblings == 1 else ()


def masks(cat: Catalogue) -> tuple[str, ...]:
    """The names of the masks; a mask has one byte per pixel, and so at most 255 classes."""
    return ("instance", "coarse", "class") if len(cat.classes) < 256 else ("instance", "coarse")


def _mask_classes(mask: str, cat: Catalogue) -> tuple[str, ...]:
    """The class names of a mask's numbers: 0 is the ground; `instance` numbers objects."""
    return {"coarse": ("background", *KINDS), "class": ("background", *cat.classes)}.get(mask, ())


def classes(config: Config, cat: Catalogue) -> dict[str, tuple[str, ...]]:
    """The class names of every label of a config, () for labels without."""
    most = max(config.numbers)
    found: dict[str, tuple[str, ...]] = {
        "object": cat.classes,
        "coarse": KINDS,
        "colour": tuple(COLOURS),
        "count": tuple(
            f"{number} object{'s' if number != 'one' else ''}" for number in NUMBERS[1 : most + 1]
        ),
        "quadrant": tuple(PLACES),
        "texture": tuple(TEXTURES),
        "size": tuple(SIZES),
        "pair": tuple(f"{colour} {name}" for name in cat.classes for colour in COLOURS),
        "design": DESIGNS,
        "ground": tuple(GROUNDS),
        "palette": tuple(PALETTES),
        "rendering": tuple(RENDERINGS),
        "style": tuple(STYLES),
        "unseen": UNSEEN,
        "noise": ("clean", *NOISES),
        "scene": (),
    }
    signals = {
        "frame": (config.easy, tuple(COLOURS)),
        "lines": (config.hard, LINES),
        "stamp": (config.overlay, SHAPES),
    }
    found |= {name: values for name, (strength, values) in signals.items() if strength}
    if config.bias is not None:
        found |= {"usual": tuple(COLOURS), "prior": PRIOR}
    if config.stamp == "anywhere":
        found["stamp_place"] = tuple(PLACES)
    if config.pair:  # a text has this name
        del found["pair"]
    if config.film:
        found["action"] = tuple(ACTIONS)
    if COMPARISON in config.roles:
        found["true"] = TRUTHS
    return found | ({"member": (), "edit": EDITS} if config.siblings > 1 else {})


def labels(scene: Scene, config: Config, cat: Catalogue) -> dict[str, int | float]:
    """The labels of a scene, -1 for one without a value, such as the quadrant of several
    objects."""
    subject = scene.things[0]
    count = sum(thing.count for thing in scene.known)
    most = max(config.numbers)
    number = number_of(subject.concept, cat.classes)
    colour = number_of(subject.colour, COLOURS)
    found: dict[str, int | float] = {
        "object": number,
        "coarse": KINDS.index(table()[subject.concept].coarse),
        "colour": colour,
        "count": count - 1 if count <= most else -1,
        "quadrant": number_of(subject.place, PLACES),
        "texture": number_of(subject.texture, TEXTURES),
        "size": number_of(subject.size, SIZES),
        "pair": number * len(COLOURS) + colour if number >= 0 and colour >= 0 else -1,
        "design": number_of(subject.items[0].design, DESIGNS),
        "ground": number_of(scene.ground, GROUNDS),
        "palette": number_of(scene.palette, PALETTES),
        "rendering": number_of(scene.rendering, RENDERINGS),
        "style": number_of(scene.style, STYLES),
        "unseen": cat.unseen(
            subject.concept, subject.colour, [item.place for item in subject.items]
        ),
        "noise": 1 + number_of(scene.noise, NOISES),
        "scene": scene.number,
    }
    if config.bias is not None:
        tinted = [thing for thing in scene.known if thing.colour]
        agrees = all(thing.colour == cat.usual(thing.concept) for thing in tinted)
        found["usual"] = number_of(cat.usual(subject.concept), COLOURS)
        found["prior"] = int(agrees) if tinted else -1
    if config.easy:
        found["frame"] = number_of(scene.easy, COLOURS)
    if config.hard:
        found["lines"] = number_of(scene.hard, LINES)
    if config.overlay:
        found["stamp"] = number_of(scene.salient, SHAPES)
    if config.stamp == "anywhere":
        place, side = stamp_at(scene, config.stamp)
        found["stamp_place"] = number_of(place, PLACES) if scene.salient else -1
        found["stamp_size"] = side if scene.salient else math.nan
    if config.pair:
        del found["pair"]
        found["similarity"] = similarity(scene, partner(scene, config, cat))
    if COMPARISON in config.roles:
        found["true"] = int(compared(scene, scene.pages[0], cat.classes)[1])
    if scene.film:
        found["action"] = number_of(scene.film.action, ACTIONS)
    if config.siblings > 1:
        change = scene.change.kind if scene.change else ""
        found |= {"member": scene.member, "edit": number_of(change, EDITS)}
    return found


def schema(config: Config, cat: Catalogue) -> Schema:
    """The fields of a config's samples."""
    found = {"images.main": Field(kind="image")}
    if max(config.lengths) > 1:
        shortest = min(config.lengths)
        found |= {
            f"images.page{at}": Field(kind="image", optional=at > shortest)
            for at in range(2, max(config.lengths) + 1)
        }
    if config.film:
        found["images.frames"] = Field(kind="image")
    roles = ["question" if role == COMPARISON else role for role in config.roles]
    roles += ["answer"] if "question" in roles else []
    found |= {f"texts.{role}": Field(kind="text") for role in roles}
    if max(config.lengths) > 1:
        found["texts.document"] = Field(kind="text", optional=min(config.lengths) == 1)
    if config.siblings > 1:
        found["images.reference"] = Field(kind="image", optional=True)
        found["texts.instruction"] = Field(kind="text", optional=True)
    found |= {
        f"labels.{name}": Field(kind="int", classes=values)
        for name, values in classes(config, cat).items()
    }
    if config.stamp == "anywhere":
        found["labels.stamp_size"] = Field(kind="float")
    if config.pair:
        found |= {"texts.pair": Field(kind="text"), "labels.similarity": Field(kind="float")}
    found |= {"boxes": Field(kind="box", classes=cat.classes), "boxes.mask": Field(kind="mask")}
    found |= {
        f"masks.{name}": Field(kind="mask", classes=_mask_classes(name, cat)) for name in masks(cat)
    }
    found |= {"arrays.depth": Field(kind="array"), "arrays.factors": Field(kind="array")}
    return found | ({"edits": Field(kind="edit", optional=True)} if edits_of(config) else {})
