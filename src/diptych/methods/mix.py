"""Mixed methods: adds the losses of other methods to the features of one (`diptych train clip
--with multi_view --with …`).

    L = L_main + Σ_m w_m L_m(adopted features)

The main method defines the views, the encoding and the delivered model. An added method contributes
its loss, with a separate temperature (and bias), on the features that the main method has encoded.
Its `features_from` adapts them, and raises an error if they do not fit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diptych.data.batch import Batch
from diptych.data.sample import Source
from diptych.data.views import View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Stage
from diptych.methods.make import Make
from diptych.methods.registry import is_file, method_class
from diptych.spec import parse
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature


class Mixed(Method):
    """`main` with the losses of `added`: methods by name, each with its weight."""

    def __init__(self, main: Method, added: Mapping[str, tuple[Method, float]]):
        super().__init__(main.config, main.make)
        self.main = main
        self.added = nn.ModuleDict({name: method for name, (method, _) in added.items()})
        self.weights = {name: weight for name, (_, weight) in added.items()}
        # Set on the instance, not on the class.
        self.chunkable = main.chunkable  # type: ignore[misc]
        self.find_unused_parameters = main.find_unused_parameters  # type: ignore[misc]
        self.whole = any(method.whole for method, _ in added.values()) or main.whole  # type: ignore[misc]
        self.averaged = main.averaged  # type: ignore[misc]
        self.exchanged = main.exchanged  # type: ignore[misc]
        self.estimated = main.estimated  # type: ignore[misc]
        self.presets = main.presets  # type: ignore[misc]

    @property
    def name(self) -> str:
        return f"{self.main.name} with {' and '.join(method.name for method in self._others())}"

    def setup(self, sources: Mapping[str, Any]) -> None:
        self.main.setup(sources)

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        return self.main.samples(stage, stream, source)

    def stages(self) -> Sequence[Stage]:
        return [
            replace(
                stage,
                lr_scale=_prefixed(stage.lr_scale),
                clip=_prefixed(stage.clip),
            )
            for stage in self.main.stages()
        ]

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return self.main.views(stage, stream)

    def needs(self, stage: Stage, stream: str = "train") -> tuple[str, ...]:
        return self.main.needs(stage, stream)

    def encode(self, batch: Batch, at: At) -> Features:
        return self.main.encode(batch, at)

    def parts(self) -> Mapping[str, Callable[[Batch, At], Features]]:
        return self.main.parts()

    def among(self, features: Features, rows: slice, batch: Batch, at: At) -> Features:
        return self.main.among(features, rows, batch, at)

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        found = self.main.loss(features, batch, at)
        terms = dict(found.terms)
        logged = dict(found.logged)
        carry = {"main": found.carry}
        for (name, weight), method in zip(self.weights.items(), self._others(), strict=True):
            theirs = method.loss(method.features_from(features, self.main.name), batch, at)
            terms |= {f"{name}/{term}": weight * value for term, value in theirs.terms.items()}
            logged |= {f"{name}/{key}": value for key, value in theirs.logged.items()}
            carry[name] = theirs.carry
        return Losses(terms, logged, carry)

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        self.main.after_step(carry["main"], at)
        for name, method in zip(self.weights, self._others(), strict=True):
            method.after_step(carry[name], at)

    def deliver(self) -> nn.Module:
        return self.main.deliver()

    def _others(self) -> list[Method]:
        return list(self.added.values())  # type: ignore[arg-type]


def _prefixed(values: Mapping[str, float]) -> dict[str, float]:
    """Return values by parameter prefix of the main method as those of the mixed one."""
    return {f"main.{prefix}".rstrip("."): value for prefix, value in values.items()}


def mixed(main: Method, specs: Sequence[str]) -> Method:
    """Return `main` with the losses of other methods, each given as NAME or NAME:option=value:…; the
    name may be a file.

    `weight` is the weight of the whole added loss. The options of an added method default to its
    preset `small`. Raises InputError for a method that does not exist, is given twice, or has no
    loss for another method's features.
    """
    added: dict[str, tuple[Method, float]] = {}
    for spec in specs:
        parsed = parse(spec)
        name = _key(parsed.name)
        options = dict(parsed.options)
        cls = method_class(parsed.name)
        if name in added:
            raise InputError(
                f"--with {parsed.name} is given twice; give it once, with the weight that you want"
            )
        if cls.features_from is Method.features_from:
            raise InputError(
                f"{parsed.name} cannot be added to another method: its loss needs features of its own; train it "
                "by itself"
            )
        weight = options.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise InputError(f"--with {spec}: weight is {weight!r}; it is a number, such as 0.5")
        if getattr(cls.Config, "several", False) and hasattr(main.config, "role"):
            options = {"role": main.config.role, **options}  # the texts that main reads
        config = cls.configure({**cls.preset("small").config, **options})
        added[name] = cls.of(config, Lent(main)), float(weight)
    return Mixed(main, added) if added else main


def _key(name: str) -> str:
    """Return the name of an added method among modules, whose names have no dots.

    >>> _key("siglip"), _key("mine/hinge.py")
    ('siglip', 'hinge_py')
    """
    return Path(name).name.replace(".", "_") if is_file(name) else name


class Lent(Make):
    """Provides the towers of an existing method to a method whose loss is added to it."""

    def __init__(self, main: Method):
        make = main.make
        super().__init__(
            image=make.image_spec,
            text=make.text_spec,
            embed_dim=make.embed_dim,
            tokenizer=make.words,
        )
        self._lender = main.deliver()
        self._name = main.name

    def dual(
        self, *, logit_scale: Temperature, logit_bias: float | None = None, **projections: str
    ) -> DualEncoder:
        """Return the lender's towers and projections, with a separate temperature and bias.

        Raises InputError if the lender's method trains no dual encoder.
        """
        if not isinstance(self._lender, DualEncoder):
            raise InputError(
                f"losses of images and texts cannot be added to {self._name}, which trains no dual "
                "encoder; leave out --with"
            )
        return _LentEncoder(self._lender, logit_scale, logit_bias)


class _LentEncoder(DualEncoder):
    """A dual encoder with the towers of another. Its attributes read the lender's, which a tuple
    keeps out of torch's registry, so that the towers are saved, trained and averaged once."""

    image = property(lambda self: self._lender[0].image)  # type: ignore[assignment]
    text = property(lambda self: self._lender[0].text)
    image_projection = property(lambda self: self._lender[0].image_projection)  # type: ignore[assignment]
    text_projection = property(lambda self: self._lender[0].text_projection)
    embed_dim = property(lambda self: self._lender[0].embed_dim)
    sides = property(lambda self: self._lender[0].sides)

    def __init__(self, lender: DualEncoder, logit_scale: Temperature, logit_bias: float | None):
        nn.Module.__init__(self)
        self._lender = (lender,)
        self._plain = lender._plain
        self.spaces = lender.spaces
        self._vector = lender._vector
        self.logit_scale = logit_scale
        self.logit_bias = (
            None if logit_bias is None else nn.Parameter(torch.tensor(float(logit_bias)))
        )
