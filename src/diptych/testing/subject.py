"""The subject of the contract suite: a method's presets, narrowed so that they train within a
second, and toys as its data."""

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from diptych.data.columns import WithColumns
from diptych.data.plan import Grouped
from diptych.data.sample import Source
from diptych.data.tokenizers import Tokenizer, build
from diptych.data.views import ArrayView, LabelView
from diptych.methods import store
from diptych.methods.base import At, Method, Preset
from diptych.methods.make import NO_TOWER, Make
from diptych.methods.registry import find, is_file, method_class
from diptych.rng import generator
from diptych.spec import Spec, annotations, parse, role
from diptych.testing.toy import Toy
from diptych.training.prepare import Run, with_columns


@dataclass(frozen=True)
class Subject:
    """A method under test: its class, its name if it has one, and options beside its
    `test_options`, as pairs, since a subject is hashed."""

    cls: type[Method]
    name: str | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a class in a separate file by that file, since other processes cannot import
        it."""
        if self.name is not None and is_file(self.name):
            return Subject.of, (self.name, dict(self.options))
        return Subject, (self.cls, self.name, self.options)

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any] = MappingProxyType({})) -> "Subject":
        """Return a method by its name or its file."""
        return cls(method_class(name), find(name).name, tuple(options.items()))

    def delivers(self, ability: str) -> bool:
        """Whether the method's card says that what it delivers is for this ability."""
        return self.name is not None and ability in find(self.name).notes.get("abilities", {})

    def preset(self, name: str, shrink: int) -> Preset:
        """Return a preset with towers and heads `shrink` times narrower, no dropout, and the model
        that ships with the package, or a denoiser of random weights, in place of any other.

        Options are recognised by their annotations: `Width`, `NetworkSpec`, `Dropout`, `ModelSpec`
        and `DenoiserSpec` of `diptych.spec`. The method's `test_options` and those of the subject are applied last.
        """
        preset = self.cls.preset(name)
        narrow = {
            "image": str(narrower(preset.image, shrink)),
            "text": str(narrower(preset.text, shrink)),
        }
        config = dict(preset.config)
        hints = annotations(self.cls.Config)
        for key, value in config.items():
            match role(hints[key]):
                case "dropout":
                    config[key] = 0.0
                case "width":
                    config[key] = max(16, value // shrink)
                case "network":
                    config[key] = str(narrower(value, shrink))
                case "model":
                    config[key] = "tiny"
                case "denoiser":
                    config[key] = toy_denoiser().name
        config |= {**self.cls.test_options, **dict(self.options)}
        return replace(
            preset, config=config, **narrow, embed_dim=max(16, preset.embed_dim // shrink)
        )

    def make(self, preset: Preset) -> Method:
        """Return a method with new weights, always the same."""
        torch.manual_seed(0)
        maker = Make(
            image=preset.image,
            text=preset.text,
            embed_dim=preset.embed_dim,
            tokenizer=toy_tokenizer(preset),
        )
        config = self.cls.configure(preset.config)
        maker.adapter = self.cls.adapter(config)
        return self.cls.of(config, maker)

    def small(self) -> Method:
        """Return the `small` preset, narrowed so that it trains within a second."""
        return self.make(self.preset("small", 4))

    def sources(self, method: Method, without: str | None = None) -> dict[str, Toy]:
        """Return toys with the fields that each stream of each stage reads, except the columns that
        a stage's `prepare` computes."""
        return toys_of(method, columns_of(self), without)


def toys_of(
    method: Method,
    columns: Mapping[tuple[str, str], int] = MappingProxyType({}),
    without: str | None = None,
) -> dict[str, Toy]:
    """Return toys with the fields that each stream of each stage reads, except `without` and the
    (stream, field) of `columns` from the stage on that has their number."""
    toys: dict[str, dict[str, Any]] = {}
    lists = ("lacked", "floats", "several")
    for number, stage in enumerate(method.stages()):
        for stream in stage.streams:
            plan = stage.plan_of(stream)
            views = method.views(stage, stream)
            toy = toys.setdefault(
                stream, {"fields": {}, **{name: [] for name in lists}, "shapes": {}}
            )
            for name in method.needs(stage, stream):
                if name != without and number < columns.get((stream, name), sys.maxsize):
                    toy["fields"][name] = None
            for view in views:
                toy["lacked"] += getattr(view, "optional", ())
                toy["several"] += getattr(view, "several", ())
                if isinstance(view, LabelView) and view.real:
                    toy["floats"].append(view.label)
                if isinstance(view, ArrayView):
                    toy["shapes"][view.array] = view.shape
            if isinstance(plan, Grouped) and plan.score:
                toy["floats"].append(plan.score)
    return {
        stream: Toy(48, **{**toy, "fields": tuple(toy["fields"])}) for stream, toy in toys.items()
    }


@cache
@torch.random.fork_rng()  # the first call draws no other numbers for its caller than the next
def columns_of(subject: Subject) -> dict[tuple[str, str], int]:
    """Return (stream, field) of the columns that the stages of a method compute, with the number of
    the stage whose `prepare` does."""
    method = subject.small()
    stages = method.stages()
    found: dict[tuple[str, str], int] = {}
    sources: dict[str, Source] = {**toys_of(method)}
    method.setup(sources)
    for number, stage in enumerate(stages):
        if stage.prepare and any(later.optimize for later in stages[number:]):
            run = Run(method, sources, At(0, 0, 0, 0, stage.name), torch.device("cpu"))
            stage.prepare(run)
            for stream, columns in run.columns.items():
                for field in set(WithColumns(sources[stream], columns).added):
                    found.setdefault((stream, field), number)
            sources = with_columns(sources, run.columns)
    return found


def narrower(spec: str, factor: int) -> Spec:
    """Return a tower spec with every width divided by `factor`, without dropout, and from a factor
    of 16 on with at most 12 blocks, at most 8 x 8 patches, and volumes of a quarter of the side. Towers
    with windows get smaller images and windows.

    Models of timm have fixed widths: they are replaced by timm's test model of the same family, on
    images of 64 pixels.

    >>> str(narrower("vit:width=768:heads=12:dropout=0.1", 16)), str(narrower("timm:resnet50:image_size=224", 16))
    ('vit:width=48:heads=12:dropout=0.0', 'timm:test_resnet:image_size=64')
    """
    parsed = parse(spec)
    name = parsed.name
    options = dict(parsed.options)
    if name.startswith("timm:") and factor > 1:
        return Spec(_smallest_of_family(name), {**options, "image_size": 64})

    def cut(value: int) -> int:
        heads = options.get("heads", 1)
        return max(2 * heads, value // factor // heads * heads)

    for key, value in options.items():
        if key.endswith("dropout"):
            options[key] = 0.0
        elif key in {"width", "widths", "hidden"} and not isinstance(value, str):
            options[key] = tuple(map(cut, value)) if isinstance(value, tuple) else cut(value)
    if factor >= 16 and name == "vit" and {"image_size", "patch"} <= options.keys():
        options["image_size"] = _smaller(options["image_size"], options["patch"])
    if factor >= 16 and isinstance(options.get("depth"), int):
        options["depth"] = min(options["depth"], 12)
    if factor > 1 and "window" in options:
        _narrow_windows(options, 8 if factor >= 16 else 4)
    if factor >= 16 and "slices" in options:
        for key in {"image_size", "slices", "scaled_size", "scaled_slices"} & options.keys():
            options[key] //= 4
    return Spec(name, options)


def shallower(spec: str) -> str:
    """Return a tower spec with at most two blocks.

    >>> shallower("vit:width=48:depth=12"), shallower("none")
    ('vit:width=48:depth=2', 'none')
    """
    parsed = parse(spec)
    depth = parsed.options.get("depth")
    if not isinstance(depth, int) or depth <= 2:
        return spec
    return str(Spec(parsed.name, {**parsed.options, "depth": 2}))


def _narrow_windows(options: dict[str, Any], by: int) -> None:
    """Divide the sides of images and windows, so that as many windows stay, and keep two blocks of a
    stage."""
    size = options["image_size"]
    options["image_size"] = (
        tuple(each // by for each in size) if isinstance(size, tuple) else size // by
    )
    options["window"] //= by
    options["depths"] = tuple(min(each, 2) for each in options["depths"])


def _smaller(size: int | tuple[int, int], patch: int) -> int | tuple[int, int]:
    """A size, of one or two sides, with at most 8 x 8 patches.

    >>> _smaller(224, 16), _smaller((16, 1024), 16), _smaller((768, 32), 16)
    (128, (16, 1024), (512, 32))
    """
    if isinstance(size, int):
        return min(size, 8 * patch)
    height = min(size[0], patch * max(8, 64 * patch // size[1]))
    width = min(size[1], patch * max(8, 64 * patch // size[0]))
    return height, width


def _smallest_of_family(spec: str) -> str:
    from timm import list_models

    model = spec.removeprefix("timm:")
    families = [
        name for name in list_models("test_*") if model.startswith(name.removeprefix("test_"))
    ]
    return f"timm:{max(families, key=len, default=model)}"


@cache
def toy_denoiser() -> "tempfile.TemporaryDirectory[str]":
    """Return the folder of a small denoiser of the toy, with random weights: a new one predicts no
    noise at all."""
    subject = Subject.of("denoise")
    preset = subject.preset("small", 8)
    rng = generator(0, "denoiser")  # the same in any default type
    with torch.random.fork_rng(), torch.no_grad():
        module: Any = subject.make(preset).deliver().float()
        for parameter in module.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(0, 0.2, tuple(parameter.shape))))
    folder = tempfile.TemporaryDirectory(prefix="diptych-denoiser-")
    description = store.describe(
        "denoise", preset.config, module, toy_tokenizer(preset), module.preprocess
    )
    # in half precision, which loads as any
    store.save_model(Path(folder.name), description, module.state_dict(), half=True)
    return folder


def toy_tokenizer(preset: Preset) -> Tokenizer | None:
    """Return a small vocabulary of the toy's words, of the preset's kind (byte pairs for a kind that
    is not trained), with its padding rule and special tokens; None if it reads no texts."""
    if preset.text == NO_TOWER:
        return None
    toy = Toy(128)
    parsed = parse(preset.tokenizer)
    kind = parsed.name if parsed.name == "wordpiece" else "bpe"
    options = parsed.options
    padding = options.get("padding", "longest")
    special = options.get("special", "")
    return build(
        f"{kind}:vocab_size=320:context=24:padding={padding}:special={special}",
        (text for i in range(128) for text in toy[i].captions()),
    )
