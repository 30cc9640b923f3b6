"""From a resolved config to a trained model in a folder: opens the data, builds the method, runs the engine, saves."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diptych import collectives
from diptych.data.loader import require
from diptych.data.sample import BadSample, Source
from diptych.data.sources import open_source
from diptych.data.tokenizers import Tokenizer, build
from diptych.data.tokenizers import from_dict as tokenizer_from
from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.methods import store
from diptych.methods.base import Method
from diptych.methods.make import NO_TOWER, Make
from diptych.methods.mix import mixed
from diptych.methods.registry import method_class
from diptych.rng import torch_seed
from diptych.towers.delivered import Delivered
from diptych.towers.dual import DualEncoder
from diptych.training import config as configs
from diptych.training.config import RunConfig
from diptych.training.engine import Engine, Summary
from diptych.training.launch import make_accelerator
from diptych.training.tracking import Tracker

Validate = Callable[[Any, Source], Mapping[str, float]]
"""`validate(model, source)`: the model is what `diptych.load` would give."""

_TEXTS = 1_000_000
"""Captions that a tokenizer is learnt from, at the most; of more, every n-th."""


def run(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    validate: Validate | None = None,
    remember: Callable[[Any, Source], float] | None = None,
    change: Callable[[Method], None] | None = None,
) -> Summary:
    """Train as `config` says into the folder `out`.

    Raises InputError where the config, the data or an earlier run in `out` do not fit, Interrupted after a signal.
    `validate(model, source)` gives numbers for the validation source after each epoch, `remember(model, source)` the
    score of the guard's (`Engine`). `change(method)` alters the
    method before it trains: what a claim's ablations break is no option of any method.
    """
    out = Path(out).expanduser()
    tracker = Tracker(config.options.tracker, out, configs.plain(config)) if config.options.tracker else None
    accelerator = make_accelerator()  # first: it opens the process group
    resume = _check_folder(config, out, resume)
    sources = {stream: open_source(spec) for stream, spec in config.data.items()}
    held_out = open_source(config.val) if config.val else None
    guarded = open_source(config.guard) if config.guard else None
    tokenizer = _tokenizer(config, out, sources, resume)
    method, delivered = build_method(config, tokenizer)
    if change is not None:
        change(method)
    if held_out is not None:
        if isinstance(delivered, DualEncoder) and delivered.text is None:
            raise InputError("the validation matches pictures and texts, and this run has no text tower; leave out "
                             "--val, and measure the model with `diptych evaluate --suite probe`")  # fmt: skip
        fields = ("images.main", "texts.*") if isinstance(delivered, DualEncoder) else ("texts.*",)
        if isinstance(delivered, Delivered):
            fields = delivered.reads
        require(held_out, fields, "validation")  # now, not after the first epoch
    if collectives.rank() == 0 and not resume:
        out.mkdir(parents=True, exist_ok=True)
        configs.write(config, out / "config.yaml")
        _write_tokenizer(method.make.words, out)
    collectives.barrier()
    preprocess = getattr(getattr(delivered, "image", None), "preprocess", None)

    def loaded(module: nn.Module) -> Any:
        return store.usable(module, method.make.words, preprocess and preprocess.to_dict(), name=str(out))

    def on_epoch(module: nn.Module, done: int) -> Mapping[str, float]:
        assert validate is not None
        assert held_out is not None
        return validate(loaded(module), held_out)

    def on_look(module: nn.Module) -> float:
        assert remember is not None
        assert guarded is not None
        return remember(loaded(module), guarded)

    engine = Engine(
        method,
        config.recipe,
        sources,
        out,
        config.options,
        accelerator=accelerator,
        validate=on_epoch if validate and held_out else None,
        remember=on_look if remember and guarded else None,
    )
    engine.log.tracker = tracker
    summary = engine.run(resume)
    weights = engine.weights()
    if collectives.rank() == 0:
        description = store.describe(config.method, config.config, engine.delivered(), method.make.words, preprocess)
        store.save_model(out, {**description, "training": _training(config, summary)}, weights)
    collectives.barrier()
    return summary


def build_method(config: RunConfig, tokenizer: Tokenizer | None) -> tuple[Method, nn.Module]:
    """The method of a config with fresh weights (or those of `init`), a function of the seed alone."""
    torch.manual_seed(torch_seed(config.options.seed, "init"))
    if config.init:
        make = Make.of(store.load(config.init, weights=config.weights))
    else:
        make = Make(image=config.image_tower, text=config.text_tower, embed_dim=config.embed_dim, tokenizer=tokenizer)
    cls = method_class(config.method)
    method = mixed(cls(cls.configure(config.config), make), config.added)
    return method, method.deliver()


def texts_of(sources: Mapping[str, Source]) -> Iterator[str]:
    """The texts of all sources, of every role, no picture read; damaged samples are passed over."""
    for source in sources.values():
        for index in range(0, len(source), max(1, math.ceil(len(source) / _TEXTS))):
            try:
                yield from source[index].captions("*")
            except BadSample:
                continue


def _tokenizer(config: RunConfig, out: Path, sources: Mapping[str, Source], resume: bool) -> Tokenizer | None:
    """The tokenizer of a config; one that is learnt from the captions is learnt once, on rank 0."""
    if config.init or config.text_tower == NO_TOWER:
        return None
    if resume:
        return tokenizer_from(json.loads((out / "state" / "tokenizer.json").read_text(encoding="utf-8")))
    learnt = None
    if collectives.rank() == 0:
        learnt = build(config.tokenizer, texts_of(sources)).to_dict()
    return tokenizer_from(collectives.broadcast_object(learnt))


def _write_tokenizer(tokenizer: Tokenizer | None, out: Path) -> None:
    if tokenizer is None:
        return
    (out / "state").mkdir(exist_ok=True)
    text = json.dumps(tokenizer.to_dict(), ensure_ascii=False)
    write_atomic(out / "state" / "tokenizer.json", lambda path: path.write_text(text, encoding="utf-8"))


def _check_folder(config: RunConfig, out: Path, resume: bool) -> bool:
    """Whether to go on with a run in `out`; InputError where the answer would lose or mix something."""
    if resume:
        configs.check_same(config, out / "config.yaml")
    elif (out / "config.yaml").exists():
        if _has_learnt(out):
            raise InputError(f"{out} already holds a run; go on with --resume, or name another --out")
    elif out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder with --out")
    elif out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty and holds no run; name another --out")
    return resume


def _has_learnt(out: Path) -> bool:
    """Whether the run in `out` took a step; one that was refused before (a batch too large, …) may be begun anew."""
    log = out / "metrics.jsonl"
    return any((out / "state").glob("step-*")) or (log.exists() and '"loss"' in log.read_text(encoding="utf-8"))


def _training(config: RunConfig, summary: Summary) -> dict[str, Any]:
    return {
        "data": dict(config.data),
        **({"added": list(config.added)} if config.added else {}),
        "seed": config.options.seed,
        "steps": summary.steps,
        "skipped": summary.skipped,
        "damaged": dict(Counter(summary.damaged.values())),
        "recipe": configs.plain(asdict(config.recipe)),
    }
