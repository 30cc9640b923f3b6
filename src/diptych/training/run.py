"""From a resolved config to a trained model in a folder: opens the data, builds the method, runs
the engine, saves."""

import errno
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
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
from diptych.files import followed, locked, read_json, write_atomic
from diptych.methods import store
from diptych.methods.adapters import adapter, is_adapted, merged
from diptych.methods.base import Method
from diptych.methods.make import NO_TOWER, Make
from diptych.methods.mix import mixed
from diptych.methods.registry import method_class
from diptych.models.delivered import Delivered
from diptych.models.export import reason
from diptych.rng import torch_seed
from diptych.towers.dual import DualEncoder
from diptych.training import config as configs
from diptych.training.config import RunConfig
from diptych.training.engine import Engine
from diptych.training.launch import make_accelerator
from diptych.training.log import read_log
from diptych.training.progress import Summary
from diptych.training.tracking import Tracker

Validate = Callable[[Any, Source], Mapping[str, float]]
"""`validate(model, source)`: the model is as returned by `diptych.load`."""

log = logging.getLogger(__name__)

_NO_LOCKS = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""Errors of file systems that cannot lock a folder, such as NFS."""

_TEXTS = 1_000_000
"""The maximum number of samples of each source whose captions train a tokenizer; of more, every
n-th is used."""


def run(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    validate: Validate | None = None,
    remember: Callable[[Any, Source], float] | None = None,
    change: Callable[[Method], None] | None = None,
    begun: Callable[[], None] | None = None,
    keep: Mapping[float, Path] = MappingProxyType({}),
    sources: Mapping[str, Source] = MappingProxyType({}),
) -> Summary:
    """Train by `config` into the folder `out`.

    - `validate(model, source)` returns numbers for the validation source after each epoch.
    - `remember(model, source)` returns the guard's score (`Engine`).
    - `change(method)` modifies the method before it trains; claims use it for ablations that are no
      option of the method.
    - `begun()` is called after all checks, before the first step.
    - `keep[epochs]` is a folder that gets the model after so many epochs. At a constant rate that is
      the model of a run of this length, if neither ends in its warm-up.
    - `sources` are those that a program gives in place of the specs: "data.STREAM", "val", "guard".

    Raises InputError if the config, the data or an earlier run in `out` do not fit, and Interrupted
    after a signal.
    """
    out = followed(out)
    accelerator = make_accelerator()  # first: it opens the process group
    with _alone(out):
        return _train(
            config, out, accelerator, resume, validate, remember, change, begun, keep, sources
        )


def _train(
    config: RunConfig,
    out: Path,
    accelerator: Any,
    resume: bool,
    validate: Validate | None,
    remember: Callable[[Any, Source], float] | None,
    change: Callable[[Method], None] | None,
    begun: Callable[[], None] | None,
    keep: Mapping[float, Path],
    given: Mapping[str, Source],
) -> Summary:
    tracker = (
        Tracker(config.options.tracker, out, configs.plain(config))
        if config.options.tracker
        else None
    )
    resume = _check_folder(config, out, resume)
    sources = {
        stream: given.get(f"data.{stream}") or open_source(spec)
        for stream, spec in config.data.items()
    }
    held_out = given.get("val") or (open_source(config.val) if config.val else None)
    guarded = given.get("guard") or (open_source(config.guard) if config.guard else None)
    tokenizer = _tokenizer(config, out, sources, resume)
    method, delivered = build_method(config, tokenizer)
    if change is not None:
        change(method)
    if held_out is not None:
        require(held_out, _validated(delivered), "validation")  # now, not after the first epoch
    preprocess = store.preprocess_of(delivered)

    def loaded(module: nn.Module) -> Any:
        return store.to_model(
            module, method.make.words, preprocess and preprocess.to_dict(), name=str(out)
        )

    if config.exportable is not None:
        _check_exportable(config, loaded(delivered))

    def on_begun() -> None:
        if collectives.rank() == 0:
            if not resume:
                configs.write(config, out / "config.yaml")
            if not (resume and _tokenizer_file(out).exists()):
                _write_tokenizer(method.make.words, out)
        collectives.barrier()
        if begun is not None:
            begun()

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
        keep={epochs: lambda to=folder: write(to) for epochs, folder in keep.items()},
    )
    _check_streams(config, method)
    engine.log.tracker = tracker

    def write(folder: Path, **more: Any) -> None:
        weights = merged(engine.weights(), method.make.adapter)
        if collectives.rank() == 0:
            description = store.describe(
                config.method, config.config, engine.delivered(), method.make.words, preprocess
            )
            training = _training(config, engine.summary) | more
            store.save_model(folder, {**description, "training": training}, weights)
        collectives.barrier()

    summary = engine.run(resume, on_begun)
    scores = {}
    if config.val is not None and collectives.rank() == 0:
        suite = getattr(loaded(engine.delivered()), "validation", None)
        scores = _scores(out, config.val, suite and suite.suite)
    write(out, **scores)
    return summary


def _validated(delivered: nn.Module) -> Sequence[str]:
    """Return the fields that the validation of a delivered module reads.

    Raises InputError for a model of images alone, which has no validation.
    """
    if isinstance(delivered, Delivered):
        return delivered.reads
    if not isinstance(delivered, DualEncoder):
        return ("texts.*",)
    if delivered.text is None:
        raise InputError(
            "the validation matches images and texts, and this run has no text tower; leave out "
            "--val, and measure the model with `diptych evaluate --suite probe`"
        )
    return ("images.main", "texts.*") if "image" in delivered.sides else ("texts.*", "labels.*")


def _check_exportable(config: RunConfig, model: Any) -> None:
    """Raise InputError unless the target of `exportable` can hold the model of a run."""
    assert config.exportable is not None
    if (why := reason(model, config.exportable)) is None:
        return
    remedy = (
        "leave it out"
        if config.init
        else "leave out --image-tower, --text-tower and --tokenizer, or it"
    )
    raise InputError(
        f"--exportable {config.exportable}: {config.exportable} cannot hold this model: {why}; {remedy}"
    )


def build_method(config: RunConfig, tokenizer: Tokenizer | None) -> tuple[Method, nn.Module]:
    """Return the method of a config with new weights (or those of `init`), which depend only on the
    seed."""
    torch.manual_seed(torch_seed(config.options.seed, "init"))
    if config.init:
        make = Make.of(store.load(config.init, weights=config.weights))
    else:
        form = configs.form_of(config.method, config.exportable)
        make = Make(
            image=config.image_tower,
            text=config.text_tower,
            embed_dim=config.embed_dim,
            tokenizer=tokenizer,
            projections=form.projections if form is not None else {},
        )
    cls = method_class(config.method)
    options = cls.configure(config.config)
    make.adapter = adapter(config.adapt) if config.adapt else cls.adapter(options)
    method = mixed(cls.of(options, make), config.added)
    if config.adapt and not is_adapted(method.deliver()):
        raise InputError(
            f"{config.method} trains no dual encoder, which an adapter is for; leave out --adapt"
        )
    return method, method.deliver()


def _check_streams(config: RunConfig, method: Method) -> None:
    """Warn of a stream that no stage reads. It is no error: with some options a method has fewer stages,
    and the tokenizer may learn from more texts than are trained on."""
    read = dict.fromkeys(stream for stage in method.stages() for stream in stage.streams)
    unread = [stream for stream in config.data if stream not in read]
    if unread and collectives.rank() == 0:
        use = "nothing uses it" if config.init else "only the tokenizer learns from its texts"
        log.warning(
            "no stage of %s reads the stream %r, they read %s; %s",
            method.name,
            unread[0],
            ", ".join(read),
            use,
        )


def texts_of(sources: Mapping[str, Source]) -> Iterator[str]:
    """Yield the texts of all sources, of every role, without reading images; damaged samples are
    skipped."""
    for source in sources.values():
        for index in range(0, len(source), max(1, math.ceil(len(source) / _TEXTS))):
            try:
                yield from source[index].captions("*")
            except BadSample:
                continue


def _tokenizer(
    config: RunConfig, out: Path, sources: Mapping[str, Source], resume: bool
) -> Tokenizer | None:
    """Return the tokenizer of a config; one that is trained on the captions is trained once, on
    rank 0."""
    if config.init or config.text_tower == NO_TOWER:
        return None
    path = _tokenizer_file(out)
    if resume and (path.exists() or _has_learnt(out)):
        remedy = "begin a new run with another --out"
        try:
            return tokenizer_from(read_json(path, remedy))
        except FileNotFoundError:
            raise InputError(
                f"{path} is missing, and the run in {out} has learnt with it; {remedy}"
            ) from None
    learnt = None
    if collectives.rank() == 0:
        learnt = build(config.tokenizer, texts_of(sources)).to_dict()
    return tokenizer_from(collectives.broadcast_object(learnt))


def _write_tokenizer(tokenizer: Tokenizer | None, out: Path) -> None:
    if tokenizer is None:
        return
    (out / "state").mkdir(exist_ok=True)
    text = json.dumps(tokenizer.to_dict(), ensure_ascii=False)
    write_atomic(_tokenizer_file(out), lambda path: path.write_text(text, encoding="utf-8"))


def _tokenizer_file(out: Path) -> Path:
    return out / "state" / "tokenizer.json"


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Lock the run's folder, which is created if missing, so that no two runs write to it. All
    ranks must call it.

    Raises InputError on all ranks if another run has locked it or it cannot be created.
    """
    with ExitStack() as stack:
        refusal = ""
        made = False
        if collectives.rank() == 0:
            try:
                made = not out.exists()
                out.mkdir(parents=True, exist_ok=True)
                busy = f"another run is writing {out}; wait for it, or name another --out"
                stack.enter_context(locked(out, busy))
            except FileExistsError:  # a file; `_check_folder` raises the error
                pass
            except InputError as error:
                refusal = str(error)
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    log.warning(
                        "%s lies where files cannot be locked; see that no other run writes it", out
                    )
                else:
                    refusal = f"cannot make or open {out}: {error.strerror}; check the path and its permissions"
        if refusal := collectives.broadcast_object(refusal):
            raise InputError(refusal)
        try:
            yield
        except BaseException:
            if made:
                with suppress(OSError):  # a folder that is not empty stays
                    out.rmdir()
            raise


def _check_folder(config: RunConfig, out: Path, resume: bool) -> bool:
    """Return whether to resume a run in `out`. Raises InputError if either choice would lose or mix
    data."""
    if resume:
        configs.check_same(config, out / "config.yaml")
    elif (out / "config.yaml").exists():
        if _has_learnt(out):
            raise InputError(
                f"{out} already holds a run; go on with --resume, or name another --out"
            )
    elif out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder with --out")
    elif out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty and holds no run; name another --out")
    return resume


def _has_learnt(out: Path) -> bool:
    """Whether the run in `out` took a step; a run that failed before (a batch too large, …) may be
    started again."""
    path = out / "metrics.jsonl"
    return any((out / "state").glob("step-*")) or (path.exists() and b'"loss"' in path.read_bytes())


def _scores(out: Path, source: str, suite: str | None) -> dict[str, Any]:
    """Return the numbers of the epoch whose weights are kept, with their protocol; nothing if there
    was no validation."""
    lines = [
        line
        for line in read_log(out / "metrics.jsonl")
        if line.get("event") in ("validation", "selected")
    ]
    if not lines:
        return {}
    scores = {
        name.removeprefix("val/"): value
        for name, value in lines[-1].items()
        if name.startswith("val/")
    }
    step = lines[-1]["done"] + 1
    return {"validation": {"source": source, "suite": suite, "step": step, "scores": scores}}


def _is_local(spec: str) -> bool:
    """Whether a model's spec names a path, which says nothing on another machine."""
    return any(Path(part).expanduser().exists() for part in (spec, spec.partition(":")[2]) if part)


def _training(config: RunConfig, summary: Summary) -> dict[str, Any]:
    return {
        "data": dict(config.data),
        **({"init": config.init} if config.init and not _is_local(config.init) else {}),
        **({"added": list(config.added)} if config.added else {}),
        **({"adapt": config.adapt} if config.adapt else {}),
        "seed": config.options.seed,
        "steps": summary.steps,
        "skipped": summary.skipped,
        "damaged": dict(Counter(summary.damaged.values())),
        "recipe": configs.plain(asdict(config.recipe)),
    }
