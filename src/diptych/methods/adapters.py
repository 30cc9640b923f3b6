"""Low-rank adapters (LoRA; Hu et al., ICLR 2022) on the towers of a dual encoder, and on a language
model (`add_factors`).

Each chosen weight W is frozen, and the product of two low-rank matrices is added to it; only these
are trained:

    y = W x + (alpha / r) B A x,   A (r, D) random, B (D', r) zero at the start

The layers are those of peft. `Make.dual` adds them to an encoder that is trained, before a method
copies it; the factors are trained in place of the towers' weights. Saved weights contain the
products, so that a loaded model is an ordinary one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from diptych.errors import InputError, unknown
from diptych.spec import Count, Dropout, configure, parse
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import freeze

ALL = "all"
_OUTPUT = "head"
RATE = 10.0
"""The learning rate of adapters as a multiple of that of all weights [choice]."""


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """`r` is the rank, `alpha` the numerator of the factor of the product, `dropout` the dropout
    before A. `layers` are the names of linear layers, joined by `+`, or `all`: each but the output layer
    of a language model. `towers` are the towers that have them. A tower that is not named is frozen.

    >>> LowRank(towers="image+words")
    Traceback (most recent call last):
    diptych.errors.InputError: towers is 'image+words'; join image and text by +
    """

    r: Count = 8
    alpha: float = 16.0
    dropout: Dropout = 0.0
    layers: str = "q+v"
    towers: str = "image+text"

    def __post_init__(self) -> None:
        for name in self.towers.split("+"):
            if name not in ("image", "text"):
                raise InputError(f"towers is {self.towers!r}; join image and text by +")


def adapter(spec: str) -> LowRank:
    """Return the adapter of a spec. Raises InputError for an unknown name or option.

    >>> adapter("lora:r=4:layers=q+v+out").r
    4
    """
    parsed = parse(spec)
    if parsed.name != "lora":
        raise unknown("adapter", parsed.name, ["lora"])
    return configure(LowRank, parsed.options, f"adapter {parsed.name!r}")


def attach(encoder: DualEncoder, options: LowRank) -> None:
    """Freeze the towers and projections of an encoder and add the factors of an adapter.

    Temperature and bias are trained as before. Raises InputError if a tower or a layer does not
    exist.
    """
    for side in encoder.sides:
        freeze(getattr(encoder, side), getattr(encoder, f"{side}_projection"))
    for name in options.towers.split("+"):
        if name not in encoder.sides:
            raise InputError(
                f"the model has no {name} tower to adapt; set towers={encoder.sides[0]}"
            )
        add_factors(getattr(encoder, name), f"{name} tower", options)


def is_adapted(module: nn.Module) -> bool:
    """Whether a module has factors of an adapter."""
    return any(".lora_" in name for name, _ in module.named_parameters())


def add_factors(module: nn.Module, name: str, options: LowRank) -> nn.ModuleDict:
    """Add the factors of an adapter to a module, in place, and return them, by their layers.

    `name` is what errors call the module. Raises InputError for a layer that it has not.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise InputError(
            "low-rank adapters need peft; install it with: pip install 'diptych[language]'"
        ) from None
    found = {
        path.rpartition(".")[2]
        for path, part in module.named_modules()
        if isinstance(part, nn.Linear)
    }
    wanted = found - {_OUTPUT} if options.layers == ALL else set(options.layers.split("+"))
    if missing := sorted(wanted - found):
        raise InputError(
            f"the {name} has no linear layer {missing[0]!r}; there are "
            f"{', '.join(sorted(found)) or 'none'}: join some with layers=A+B"
        )
    config = LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # peft divides it by r
        lora_dropout=options.dropout,
        target_modules=sorted(wanted),
    )
    inject_adapter_in_model(config, module)
    return nn.ModuleDict(
        {
            path.replace(".", "-"): nn.ModuleDict(
                {
                    "down": part.lora_A["default"],  # type: ignore[index]  # peft's layers
                    "up": part.lora_B["default"],  # type: ignore[index]
                    "dropout": part.lora_dropout["default"],  # type: ignore[index]
                }
            )
            for path, part in module.named_modules()
            if hasattr(part, "lora_A")
        }
    )


def merged(state: Mapping[str, Tensor], options: LowRank | None) -> dict[str, Tensor]:
    """Return a state dict with the products added to the weights, under the names of a model
    without adapters; one that has no factors is returned as it is.

    >>> import torch
    >>> factors = {"q.lora_A.default.weight": torch.ones(1, 2), "q.lora_B.default.weight": torch.ones(2, 1)}
    >>> merged({"q.base_layer.weight": torch.zeros(2, 2), **factors}, LowRank(r=1, alpha=3.0))
    {'q.weight': tensor([[3., 3.],
            [3., 3.]])}
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        layer, based, part = name.partition(".base_layer.")
        if based and part == "weight":
            assert options is not None, "a state with factors comes from a method with an adapter"
            down = state[f"{layer}.lora_A.default.weight"]
            up = state[f"{layer}.lora_B.default.weight"]
            value = value + options.alpha / options.r * (up @ down)
        found[f"{layer}.{part}" if based else name] = value
    return found
