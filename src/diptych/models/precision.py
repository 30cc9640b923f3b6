"""The precision of a model: float32, bfloat16 weights, dynamic int8, or the fastest of them by a
probe.

`diptych.load(…, precision=…)` calls `set_precision`. The probe embeds fixed images and texts with
the model in each precision and selects the fastest one whose worst cosine to float32 is at least
COSINE.
"""

import copy
import json
import logging
import time
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import torch

from diptych.data.sources import cache
from diptych.errors import InputError, unknown
from diptych.models import int8, probe
from diptych.models.language import LanguageModel
from diptych.models.model import TextModel
from diptych.models.multimodal import ContrastiveCaptioner
from diptych.towers.nn.attention import Attention

log = logging.getLogger(__name__)

PRECISIONS = ("float32", "bfloat16", "int8")
# for the probe's worst; the worst of thousands is lower (int8 .9991 of 32 captions, .9990 of 256)
COSINE = 0.9995
"""The least cosine, over all probe inputs, between a precision's embedding and float32's."""


class _Named(Protocol):
    name: str


M = TypeVar("M", bound=_Named)


def set_precision(model: M, precision: str) -> M:
    """Convert a newly loaded float32 model to `precision`, in place; returns the model.

    "auto" probes once and caches the result for this model, machine, torch version and number of
    threads. `model.identity` remains that of the float32 weights. Raises InputError for an unknown
    precision, and for one that the model or the machine does not support.
    """
    if precision not in (*PRECISIONS, "auto"):
        raise unknown("precision", precision, (*PRECISIONS, "auto"))
    if isinstance(model, TextModel):
        if model.precision != "float32":
            raise InputError(
                f"{model.name} is in {model.precision}; load it anew to have it in {precision}"
            )
        if precision == "auto":
            _auto(model)
        else:
            _convert(model, precision)
        return model
    if precision != "float32":
        raise InputError(f"{model.name} computes in float32 alone; leave precision out")
    if isinstance(model, LanguageModel):
        join(model.lm)
    return model


def join(module: torch.nn.Module) -> None:
    """Store q, k and v of every attention layer contiguously, so that inference computes them as
    one product."""
    for part in module.modules():
        if isinstance(part, Attention):
            part.join()


def _convert(model: TextModel, precision: str) -> TextModel:
    if precision != "float32":
        _ = model.identity  # of the loaded weights, before they are converted
    if precision == "bfloat16":
        for part in _towers(model):
            part.bfloat16()
    elif precision == "int8":
        if model.device.type != "cpu" or not int8.available():
            raise InputError("int8 runs on x86 processors alone; choose precision='bfloat16'")
        if not sum(int8.quantise(part) for part in _towers(model)):
            raise InputError(
                f"{model.name} has no transformer of ours to put in int8; choose precision='bfloat16'"
            )
    model.precision = precision
    join(model.encoder)
    return model


def _towers(model: TextModel) -> tuple[torch.nn.Module, ...]:
    """The modules to convert: towers, projections and poolers, and a decoder that goes on from the
    text tower; scale and bias of similarities remain float32."""
    encoder = model.encoder
    parts = [
        getattr(encoder, name) for side in encoder.sides for name in (side, f"{side}_projection")
    ]
    if encoder.image_pooler is not None:
        parts.append(encoder.image_pooler)
    captioner = model.delivered
    if isinstance(captioner, ContrastiveCaptioner) and captioner.encoder is encoder:
        parts.append(captioner.lm)
    return tuple(parts)


def _auto(model: TextModel) -> TextModel:
    join(model.encoder)  # the other precisions are compared with float32 as it would run
    place = cache.named(
        "precision", [_VERSION, model.identity, *probe.machine(model.device)], ".json"
    )
    known = _read(place)
    if known is not None:
        log.info("%s computes in %s, as the probe of %s found", model.name, known, place)
        return _convert(model, known)
    start = time.perf_counter()
    chosen, table = _probe(model)
    seconds = time.perf_counter() - start
    content = json.dumps({"precision": chosen.precision, "probed": table}, indent=1).encode()

    def fill(file: BinaryIO) -> None:
        file.write(content)

    kept = cache.write(place, fill)
    found = "; ".join(f"{name}: {facts}" for name, facts in table.items())
    log.info(
        "%s computes in %s (%s), probed in %.1f s%s",
        model.name,
        chosen.precision,
        found,
        seconds,
        "" if kept else ", not kept: the cache cannot be written",
    )
    model.encoder = chosen.encoder
    model.precision = chosen.precision
    return model


_VERSION = "2"  # of the probe; increase it when its inputs, criterion or result change


def _read(place: Path) -> str | None:
    try:
        precision = json.loads(place.read_text(encoding="utf-8"))["precision"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # missing or damaged: probe again
    return precision if precision in PRECISIONS else None


def _probe(model: TextModel) -> tuple[TextModel, dict[str, str]]:
    """The fastest model that is close enough, and the results of each, as text."""
    runs = probe.runs(model)
    exact = {side: run(model) for side, run in runs.items()}
    close = {"float32": model}
    table = {"float32": "1.0x"}
    for precision in PRECISIONS[1:]:
        try:
            other = _convert(_copied(model), precision)
            worst = min(probe.worst_cosine(run(other), exact[side]) for side, run in runs.items())
        except (InputError, RuntimeError, NotImplementedError) as error:
            table[precision] = f"not here ({str(error).splitlines()[0]})"
            continue
        table[precision] = f"cosine {worst:.5f}"
        if worst >= COSINE:  # false for NaN
            close[precision] = other
    times = [
        probe.fastest({name: partial(run, other) for name, other in close.items()})
        for run in runs.values()
    ]
    share = {
        name: sum(each[name] / each["float32"] for each in times) / len(times) for name in close
    }
    for name in close:
        table[name] = f"{1 / share[name]:.1f}x" + (
            f" at {table[name]}" if name != "float32" else ""
        )
    return close[min(share, key=share.__getitem__)], table


def _copied(model: TextModel) -> TextModel:
    _ = model.identity  # a cached property, which the copy has too
    other = copy.copy(model)
    other.encoder = copy.deepcopy(model.encoder)
    return other
