"""The costs of a preset, counted on toys with the fields that the method reads."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from diptych.data.tokenizers import Tokenizer, build
from diptych.errors import InputError
from diptych.methods.base import Method, Preset
from diptych.methods.make import NO_TOWER, Make
from diptych.methods.registry import method_class
from diptych.spec import annotations, configure, parse, role
from diptych.testing.subject import toy_denoiser, toys_of
from diptych.testing.toy import Toy
from diptych.towers.build import text_tower
from diptych.towers.tower import Tower
from diptych.training.costs import Costs, count

_HEAVY = 600_000_000
"""Weights of towers above which they are not held in memory."""
_STAND_INS = {"model": lambda: "tiny", "denoiser": lambda: toy_denoiser().name}


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The preset with what was changed in it, its costs, and `left_out`: the options whose models
    were not counted at their size."""

    preset: Preset
    costs: Costs
    left_out: Mapping[str, str]


def count_preset(
    method: str,
    preset: str = "paper",
    *,
    towers: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Counted:
    """Count a preset of a method, with changed fields of the preset (`towers`: "image", "text",
    "tokenizer", "embed_dim") and of its recipe.

    A method that adapts a trained model is counted on new towers of the preset. Models that options
    name, such as a teacher, are replaced by a small one, and named in `left_out`. Raises InputError
    for anything that does not exist, and for a method that cannot be run without data.
    """
    cls = method_class(method)
    chosen = cls.preset(preset)
    fields = {**vars(chosen.recipe), **(recipe or {})}
    chosen = replace(
        chosen, **(towers or {}), recipe=configure(type(chosen.recipe), fields, "recipe")
    )
    hints = annotations(cls.Config)
    left_out = {
        key: str(value)
        for key, value in chosen.config.items()
        if value and role(hints[key]) in _STAND_INS
    }
    small = {key: _STAND_INS[str(role(hints[key]))]() for key in left_out}
    chosen = replace(chosen, config={**chosen.config, **small})
    try:
        costs = _costs(cls, chosen)
    except InputError:
        if not cls.test_options:  # such as a file of prompts that the preset cannot name
            raise
        chosen = replace(chosen, config={**chosen.config, **cls.test_options})
        costs = _costs(cls, chosen)
        left_out["options"] = f"(those for toy data: {', '.join(cls.test_options)})"
    if cls.adapts and any(name.startswith("label") for name in hints):
        left_out["classes"] = (
            "beyond the 8 of toy data"  # many encode the prompts of all in each step
        )
    return Counted(preset=chosen, costs=costs, left_out=left_out)


def _costs(cls: type[Method], preset: Preset) -> Costs:
    config = cls.configure(preset.config)
    words = _tokenizer(preset)

    def new() -> Method:
        make = Make(
            image=preset.image, text=preset.text, embed_dim=preset.embed_dim, tokenizer=words
        )
        make.adapter = cls.adapter(config)
        return cls.of(config, make)

    return count(new, toys_of, preset.recipe, heavy=_weights(cls, preset, words) > _HEAVY)


def _weights(cls: type[Method], preset: Preset, words: Tokenizer | None) -> int:
    """Return the number of weights of a preset's towers, and of new language models that options
    name."""
    hints = annotations(cls.Config)
    networks = [str(value) for key, value in preset.config.items() if role(hints[key]) == "network"]
    make = Make(image=preset.image, text=preset.text, embed_dim=preset.embed_dim, tokenizer=words)
    with torch.device("meta"):
        towers: list[Tower] = [make.image()] if preset.image != NO_TOWER else []
        if words is not None:
            towers.append(make.text())
            for spec in networks:
                if parse(spec).name == "text":
                    size = words.vocab_size
                    towers.append(text_tower(spec, vocab_size=size, context=words.context))
    return sum(weight.numel() for tower in towers for weight in tower.parameters())


def _tokenizer(preset: Preset) -> Tokenizer | None:
    """Return a tokenizer of the toy's words with the vocabulary's size of the preset."""
    if preset.text == NO_TOWER:
        return None
    toy = Toy(128)
    found = build(preset.tokenizer, (text for i in range(128) for text in toy[i].captions()))
    found.vocab_size = max(found.vocab_size, parse(preset.tokenizer).options.get("vocab_size", 0))
    return found
