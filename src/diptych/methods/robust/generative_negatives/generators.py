"""Generators of variations: worlds, which draw a scene anew, and diffusion models, which paint
another thing over an item.

Dimensions: H x W pixels.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.answers import Question, Writer, describe
from diptych.data.images import BytesImage
from diptych.data.png import png_of
from diptych.data.sample import BadSample, Box, Sample, Schema, Source, Text
from diptych.data.worlds import World, WorldSource
from diptych.data.worlds.scenes.words import article
from diptych.errors import InputError, brief
from diptych.files import read_json
from diptych.methods.robust.generative_negatives.variations import varied_captions
from diptych.rng import generator as numbers

STEPS = 100
GUIDANCE = 7.5
SIDE = 512
"""Steps, guidance and pixels of a crop, as published with Stable Diffusion 2."""
_TRIES = 3  # answers about an item
MARGIN = 1.25
"""The side of a crop over that of its item [choice]."""


class WorldVariations:
    """Variations of the samples of a world, drawn anew with another concept in the place of one;
    captions are the world's.

    Raises InputError for a source that is no world, or a world that cannot vary.

    >>> from diptych.data.sources import open_source
    >>> source = open_source("scenes:count=1:number=1:drop=0")
    >>> generator = WorldVariations(source)
    >>> [item] = generator.items(source[0])
    >>> found = generator(source[0], item, 2)
    >>> [variation.captions("short") for variation in found]
    [['a cat'], ['a penguin']]
    """

    def __init__(self, source: Source):
        world: World[Any] | None = source.world if isinstance(source, WorldSource) else None
        if world is None or not hasattr(world, "vary"):
            raise InputError(
                f"{source.name} cannot be drawn anew with another object; name a world that can, such as "
                "scenes:number=2, or a diffusion model with --by"
            )
        if "texts.caption" not in source.schema():
            raise InputError(f"{source.name} has no captions; add caption to its texts=")
        self.world: Any = world
        self.source: Any = source
        self.name = "world"

    def items(self, sample: Sample) -> Sequence[str]:
        return self.world.items(self._facts(sample))

    def __call__(self, sample: Sample, item: str, count: int) -> Sequence[Sample]:
        found = []
        for number, facts in enumerate(self.world.vary(self._facts(sample), item, count)):
            drawn = self.world.example(facts, f"{sample.key}-{number}")
            short = Text(text=article(facts.change.value), role="short")
            whole = Text(text=drawn.captions()[0], role="desc")
            found.append(replace(drawn, texts=[*drawn.texts, short, whole]))
        return found

    def _facts(self, sample: Sample) -> Any:
        index = int(sample.key.rpartition("-")[2])
        return self.world.sample(self.source.seed, index)


@dataclass(frozen=True, kw_only=True)
class Portrayal:
    """What takes an item's place: `short`, a few visible words, and `desc`, a description to paint
    by."""

    short: str
    desc: str


PROMPT = (
    "The image shows: {caption}. Portray {item} in this image in {count} different ways, one a line: a long "
    "description of what could be in its place, then two or three visible words for it with a colour in parentheses. "
    "Replace an animal by other animals. One line replaces it by something of a similar meaning."
)
"""What a language model is asked for each item of an image."""
_LINE = re.compile(r"^\s*(?:\d+[.):]|[-*])?\s*(?P<desc>.*\S)\s*\((?P<short>[^()]+)\)\s*\.?\s*$")


def portrayals_of(answer: str, count: int = 4) -> list[Portrayal]:
    """Read the answer of a language model: `count` lines, a description with short words in
    parentheses.

    Raises InputError for an answer of another form.

    >>> portrayals_of("1. a red fox asleep on the mat (red fox)\\n2. a grey owl (grey owl)", 2)[0].short
    'red fox'
    """
    lines = [line for line in answer.splitlines() if line.strip()]
    found = [_LINE.match(line) for line in lines]
    if len(lines) != count or not all(found):
        raise InputError(
            f"the answer is not {count} lines of a description with short words in parentheses; ask again"
        )
    return [
        Portrayal(short=match["short"].strip(), desc=match["desc"].strip())
        for match in found
        if match
    ]


def asked_portrayals(
    source: Source,
    writer: Writer,
    cache: Path,
    *,
    count: int = 4,
    role: str = "caption",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, list[Portrayal]]]:
    """Ask a writer (`data.answers`) for `count` portrayals of each item of each sample, by its key
    and the item's name. Answers of another form are asked for again, twice at most.

    Raises InputError if no answer has the form.
    """
    names = source.schema()["boxes"].classes if "boxes" in source.schema() else ()
    questions = []
    places = {}
    for index in range(len(source)):
        try:
            sample = source[index]
        except BadSample:  # `vary` counts it
            continue
        said = (sample.captions(role) or [""])[0]
        items = dict.fromkeys(name_of(box, names) for box in sample.boxes if box.image == "main")
        for item in filter(None, items):
            key = f"{sample.key}/{item}"
            places[key] = (sample.key, item)
            prompt = PROMPT.format(caption=said, item=item, count=count)
            questions.append(Question(key=key, prompt=prompt))

    def read(answer: str) -> list[str]:
        return [f"{each.desc} ({each.short})" for each in portrayals_of(answer, count)]

    found = describe(
        questions, writer, cache, read=read, each=count, tries=_TRIES, progress=progress
    )
    portrayals: dict[str, dict[str, list[Portrayal]]] = {}
    for key, texts in found.texts.items():
        sample_key, item = places[key]
        own = portrayals.setdefault(sample_key, {})
        own[item] = portrayals_of("\n".join(texts), len(texts))
    if not portrayals:
        raise InputError(
            f"no answer of {writer.name} about {len(questions)} items is {count} lines of a description with short "
            "words in parentheses; take another one, or write portrayals into a file"
        )
    return portrayals


def name_of(box: Box, names: Sequence[str]) -> str:
    """The name of a box's label, or its text."""
    return names[box.label] if 0 <= box.label < len(names) else box.text


def read_portrayals(path: Path) -> dict[str, dict[str, list[Portrayal]]]:
    """Read {key of a sample, or "*" for all: {item: [{"short": …, "desc": …}, …]}}. Raises InputError
    for other contents."""
    values = read_json(path, "give portrayals of items by the key of their sample")
    try:
        return {
            key: {
                item: [Portrayal(short=each["short"], desc=each["desc"]) for each in portrayals]
                for item, portrayals in items.items()
            }
            for key, items in values.items()
        }
    except (AttributeError, KeyError, TypeError):
        raise InputError(
            f'{path} does not map keys of samples to items and their portrayals; write {{"*": {{"cat": '
            '[{"short": "a red fox", "desc": "a red fox asleep"}]}}}}'
        ) from None


class Inpainting:
    """Variations painted by an inpainting pipeline of diffusers, in a square crop around an item.

    Items are the names of a sample's boxes (labels, or texts) that have portrayals. The area to paint is the item's
    first box or, where the source has a mask `class` with its name, the item's pixels inside the
    box. Pixels outside the crop keep their bytes. Random numbers depend on (seed, key, item, number)
    alone. Needs the extra `diffusion`. Raises InputError for a folder without such a pipeline and
    for a source without boxes.
    """

    def __init__(
        self,
        folder: str,
        portrayals: Mapping[str, Mapping[str, Sequence[Portrayal]]],
        schema: Schema,
        *,
        seed: int = 0,
        steps: int = STEPS,
        side: int = SIDE,
        role: str = "caption",
    ):
        if "boxes" not in schema:
            raise InputError(
                "the data have no boxes, which say where an item is; name data that have"
            )
        self.pipeline = _pipeline(folder)
        self.portrayals = portrayals
        self.names = schema["boxes"].classes
        self.classes = schema["masks.class"].classes if "masks.class" in schema else ()
        self.seed = seed
        self.steps = steps
        self.side = side
        self.role = role
        said = json.dumps(portrayals, default=vars, sort_keys=True)
        digest = hashlib.sha256(said.encode()).hexdigest()[:12]
        self.name = f"{folder} seed={seed} steps={steps} side={side} portrayals={digest}"

    def items(self, sample: Sample) -> Sequence[str]:
        own = self._of(sample)
        names = dict.fromkeys(
            name_of(box, self.names) for box in sample.boxes if box.image == "main"
        )
        return [name for name in names if name in own]

    def _of(self, sample: Sample) -> Mapping[str, Sequence[Portrayal]]:
        return {**self.portrayals.get("*", {}), **self.portrayals.get(sample.key, {})}

    def __call__(self, sample: Sample, item: str, count: int) -> Sequence[Sample]:
        image = sample.images["main"].decode().convert("RGB")
        area = self._area(sample, item, image.size)
        frame = crop_of(area, image.size)
        captions = sample.captions(self.role)
        found = []
        for number, portrayal in enumerate(self._of(sample)[item][:count]):
            painted = self._painted(image, area, frame, portrayal.desc, (sample.key, item, number))
            texts = varied_captions(captions, item, portrayal.short, captions[0])
            found.append(
                Sample(
                    key=f"{sample.key}-{number}",
                    source=sample.source,
                    images={"main": BytesImage(painted)},
                    texts=[
                        *(Text(text=text) for text in texts),
                        Text(text=portrayal.short, role="short"),
                        Text(text=portrayal.desc, role="desc"),
                    ],
                )
            )
        return found

    def _area(self, sample: Sample, item: str, size: tuple[int, int]) -> np.ndarray:
        """The pixels (H, W) of an item, bool."""
        box = next(
            box for box in sample.boxes if box.image == "main" and name_of(box, self.names) == item
        )
        width, height = size
        x0, y0, x1, y1 = box.xyxy
        area = np.zeros((height, width), bool)
        area[max(0, int(y0)) : int(np.ceil(y1)), max(0, int(x0)) : int(np.ceil(x1))] = True
        if item in self.classes and "class" in sample.masks:
            own = np.asarray(sample.masks["class"].decode()) == self.classes.index(item)
            if own.shape == area.shape and (area & own).any():
                area &= own
        if not area.any():
            raise BadSample("empty-box", f"the box of {item!r} holds no pixel")
        return area

    def _painted(
        self,
        image: Image.Image,
        area: np.ndarray,
        frame: tuple[int, int, int, int],
        prompt: str,
        what: tuple[str, str, int],
    ) -> bytes:
        """The image with the crop `frame` painted anew, as a PNG file."""
        import torch

        size = (self.side, self.side)
        seed = int(numbers(self.seed, "inpainting", *what).integers(2**31))
        [painted] = self.pipeline(
            prompt=prompt,
            image=image.crop(frame).resize(size, Image.Resampling.LANCZOS),
            mask_image=Image.fromarray(area).crop(frame).resize(size, Image.Resampling.NEAREST),
            height=self.side,
            width=self.side,
            num_inference_steps=self.steps,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(seed),
        ).images
        x0, y0, x1, y1 = frame
        whole = image.copy()
        whole.paste(painted.resize((x1 - x0, y1 - y0), Image.Resampling.LANCZOS), (x0, y0))
        return png_of(whole)


def crop_of(area: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the square around an area, with a margin, as far as the image reaches.

    >>> area = np.zeros((40, 100), bool)
    >>> area[10:20, 30:50] = True
    >>> crop_of(area, (100, 40))
    (27, 2, 52, 27)
    """
    rows = np.flatnonzero(area.any(1))
    columns = np.flatnonzero(area.any(0))
    width, height = size
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    side = min(int(np.ceil(side * MARGIN)), width, height)
    x0 = int(np.clip((columns[0] + columns[-1] + 1 - side) // 2, 0, width - side))
    y0 = int(np.clip((rows[0] + rows[-1] + 1 - side) // 2, 0, height - side))
    return x0, y0, x0 + side, y0 + side


def _pipeline(folder: str) -> Any:
    """The inpainting pipeline of a folder, on the GPU if there is one."""
    try:
        from diffusers.pipelines.auto_pipeline import AutoPipelineForInpainting
    except ImportError:
        raise InputError(
            "painting needs diffusers; install it with: pip install 'diptych[diffusion]'"
        ) from None
    import torch

    if not (Path(folder) / "model_index.json").is_file():
        raise InputError(f"{folder} holds no model_index.json; name a folder of diffusers")
    try:
        pipeline = AutoPipelineForInpainting.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
    except Exception as error:  # diffusers raises many kinds
        raise InputError(
            f"{folder} holds no inpainting pipeline that diffusers can read ({brief(error)}); copy it again"
        ) from None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
