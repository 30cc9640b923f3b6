"""Backends: libraries that compute the towers of a dual encoder in place of torch, on a processor.

    x = graph_image(pixels),    y = graph_text(ids, lengths)

A graph is a tower with its projection in ONNX (`models.export`), kept in the user's cache under a
checksum of the model. `diptych.load(…, backend=…)` calls `set_backend`: what embeds images and
texts then runs in the graphs, and everything else, such as maps and generation, in torch.

Dimensions: N images or texts, L ids of a text, S x S pixels, E embedding.
"""

import copy
import hashlib
import json
import logging
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.sources import cache
from diptych.errors import InputError, brief, unknown
from diptych.files import is_full
from diptych.models import probe
from diptych.models.export import LIMIT
from diptych.models.export import onnx as export
from diptych.models.model import Model, TextModel
from diptych.models.precision import COSINE, PRECISIONS, set_precision

log = logging.getLogger(__name__)

_FORMAT = "1"  # of the cached graphs and choices; increase it when they change

Compiled = Callable[..., Tensor]
"""From the tensors of a batch to unit vectors (N, E), float32."""


def _openvino(path: Path, precision: str) -> Compiled:
    import openvino

    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(str(path), "CPU", options)
    request = compiled.create_infer_request()
    lock = threading.Lock()  # a request holds the tensors of one batch

    def run(*batch: Tensor) -> Tensor:
        with lock:
            found = request.infer([part.contiguous().numpy() for part in batch])
            return torch.from_numpy(found[0].copy())

    return run


def _onnxruntime(path: Path, precision: str) -> Compiled:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(*batch: Tensor) -> Tensor:
        given = {name: part.numpy() for name, part in zip(names, batch, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


@dataclass(frozen=True)
class _Library:
    compile: Callable[[Path, str], Compiled]
    precisions: tuple[str, ...]
    extra: str


LIBRARIES: Mapping[str, _Library] = {
    "openvino": _Library(_openvino, ("float32", "bfloat16"), "fast"),
    "onnxruntime": _Library(_onnxruntime, ("float32",), "export"),
}
BACKENDS = ("torch", *LIBRARIES)


class Graph:
    """One side of an encoder, computed by a library: uint8 pixels (N, 3, S, S), or ids (N, L) and
    lengths (N,), to unit vectors (N, E).

    Pixels that are preprocessed already, and clips, are computed by torch (`otherwise`).
    """

    def __init__(self, by: str, precision: str, run: Compiled, otherwise: Compiled):
        self.by = by
        self.precision = precision
        self._run = run
        self._otherwise = otherwise

    def __call__(self, *batch: Tensor) -> Tensor:
        first = batch[0]
        given = first.dtype == torch.int64 or (first.dtype == torch.uint8 and first.ndim == 4)
        return self._run(*batch) if given else self._otherwise(*batch)


Way = tuple[str, str]
"""A backend and a precision."""


def set_backend(model: Any, backend: str, precision: str) -> Any:
    """Let a newly loaded float32 model embed by `backend` in `precision`, in place; returns the
    model.

    With "openvino" or "onnxruntime" a tower stays with torch, and a warning says why, if it cannot be
    converted, or if the probe's embeddings differ from float32's: by more than 1e-5, or in
    bfloat16 by a cosine below `precision.COSINE`. "auto" takes for each tower what is fastest of
    torch and the libraries that are installed, and `precision="auto"` the fastest precision; on a
    GPU it is torch. The outcome is kept for this model, machine, versions and number of threads.

    Raises InputError for an unknown backend, one that is not installed, a precision that it does
    not have, a model that is on a GPU or does not embed by towers alone, for graphs in the cache that
    are damaged or another model's, and for a full disk.
    """
    if backend not in (*BACKENDS, "auto"):
        raise unknown("backend", backend, (*BACKENDS, "auto"))
    if precision not in (*PRECISIONS, "auto"):
        raise unknown("precision", precision, (*PRECISIONS, "auto"))
    ways = _ways(backend, precision)
    if not ways or (backend == "auto" and model.device.type != "cpu"):
        return set_precision(model, precision)
    embeds = (getattr(type(model), name, None) for name in ("embed_texts", "embed_images"))
    if not isinstance(model, TextModel) or not {*embeds} <= {
        TextModel.embed_texts,
        Model.embed_images,
        None,
    }:
        raise InputError(f"{model.name} computes by torch alone; leave backend out")
    if model.device.type != "cpu":
        raise InputError(
            f"{model.name} is on {model.device}, and {backend} computes on the processor; load it with device='cpu'"
        )
    libraries = sorted({f"{by} {version(by)}" for by, _ in ways})
    machine = probe.machine(model.device)
    key = [_FORMAT, model.identity, *machine, backend, precision, *libraries]
    place = cache.named("backend", key, ".json")
    chosen = cache.read(place, lambda path: json.loads(path.read_text(encoding="utf-8")))
    folder = _graphs(model)
    if chosen is None:
        chosen = _chosen(model, folder, ways, backend, precision)
        content = json.dumps(chosen, indent=1).encode()
        cache.write(place, lambda file: file.write(content))
    elif backend == "auto" or any(each["by"] == "torch" for each in chosen.values()):
        set_precision(model, precision)
    graphs = {}
    for side, each in chosen.items():
        if each["by"] != "torch":
            graphs[side] = _graph(model, folder, side, (each["by"], each["precision"]))
        elif backend != "auto":
            log.warning("%s: the %s tower stays with torch: %s", model.name, side, each["why"])
    model.graphs = graphs
    log.info("%s computes in %s", model.name, model.computed_by)
    return model


def _ways(backend: str, precision: str) -> list[Way]:
    """The libraries to try, each in the precisions to try."""
    if backend == "torch":
        return []
    if backend == "auto":
        libraries = [name for name in LIBRARIES if _lacks(name) is None]
    else:
        libraries = [backend]
        if (package := _lacks(backend)) is not None:
            raise InputError(
                f"backend {backend} needs {package}; pip install 'diptych[{LIBRARIES[backend].extra}]'"
            )
        if precision not in (*LIBRARIES[backend].precisions, "auto"):
            raise InputError(
                f"{backend} does not compute in {precision}; it has {', '.join(LIBRARIES[backend].precisions)}, and "
                "auto takes the faster"
            )
    return [
        (name, each)
        for name in libraries
        for each in LIBRARIES[name].precisions
        if precision in (each, "auto")
    ]


def _lacks(library: str) -> str | None:
    """The first package that is not installed, of those that write and run graphs."""
    packages = (library, "onnx", "onnxscript")
    return next((each for each in packages if find_spec(each) is None), None)


def _chosen(
    model: TextModel, folder: Path, ways: Sequence[Way], backend: str, precision: str
) -> dict[str, dict[str, str]]:
    """What computes each side: `by`, `precision`, and `why` where it is torch.

    Sets the model's own precision if torch takes part.
    """
    runs = probe.runs(model)
    exact = {side: run(model) for side, run in runs.items()}
    close: dict[str, dict[Way, TextModel]] = {}
    whys: dict[str, str] = {}
    for side, run in runs.items():
        close[side] = {}
        for way in ways:
            try:
                other = copy.copy(model)
                other.graphs = {side: _graph(model, folder, side, way)}
                found = run(other)
            except Exception as error:  # libraries raise many kinds
                whys[side] = brief(error)
                continue
            difference = float((found - exact[side]).abs().max())
            cosine = probe.worst_cosine(found, exact[side])
            if (difference <= LIMIT) if way[1] == "float32" else (cosine >= COSINE):
                close[side][way] = other
            else:
                whys[side] = f"embeddings by {way[0]} in {way[1]} have a cosine of {cosine:.5f}"
    if backend == "auto" or not all(close.values()):
        set_precision(model, precision)
    chosen = {}
    for side, run in runs.items():
        tried: dict[Way, Any] = dict(close[side])
        if backend == "auto" or not tried:
            tried["torch", model.precision] = model
        best = next(iter(tried))
        if len(tried) > 1:
            times = probe.fastest({way: partial(run, other) for way, other in tried.items()})
            best = min(times, key=times.__getitem__)
        why = {"why": whys.get(side, "it is the fastest")} if best[0] == "torch" else {}
        chosen[side] = {"by": best[0], "precision": best[1], **why}
    return chosen


def _graph(model: TextModel, folder: Path, side: str, way: Way) -> Graph:
    by, precision = way
    path = folder / f"{side}.onnx"
    if not path.exists():
        known = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
        raise InputError(known["lacks"][side])
    otherwise = getattr(model.encoder, f"embed_{side}s")
    return Graph(by, precision, LIBRARIES[by].compile(path, precision), otherwise)


_NOTE = "graphs.json"


def _graphs(model: TextModel) -> Path:
    """The folder with the graphs of a model, which is written if there is none.

    graphs.json has the model's identity, the SHA-256 of each file, and why a side has no graph.
    """
    key = [_FORMAT, model.identity, torch.__version__, version("onnx"), version("onnxscript")]
    folder = cache.named("graphs", key, "")
    if not folder.exists():
        return _written(model, folder)
    try:
        known = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
        whole = known["identity"] == model.identity and all(
            _digest(folder / name) == digest for name, digest in known["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise InputError(
            f"{folder} does not hold the graphs that were written for {model.name}; delete it, and it is written anew"
        )
    return folder


def _written(model: TextModel, folder: Path) -> Path:
    """Write the graphs next to `folder` and rename them; without a place there, into a folder that
    ends with the process. Raises InputError if the disk is full."""
    log.info("%s is converted, once for these weights", model.name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        holder = tempfile.TemporaryDirectory(dir=folder.parent, prefix=".graphs-")
    except OSError:
        holder = tempfile.TemporaryDirectory(prefix="diptych-graphs-")
    temporary = Path(holder.name) / "graphs"
    temporary.mkdir()
    lacks = {}
    for side in model.encoder.sides:
        if side == "image" and not isinstance(model.preprocess, Preprocess):
            lacks[side] = "it reads volumes"
            continue
        try:
            export.write_graph(model, side, temporary / f"{side}.onnx")
        except InputError as error:
            cause = error.__cause__
            if cause is not None and is_full(cause):  # no reason that lasts
                holder.cleanup()
                raise InputError(
                    f"no space left to write the graphs of {model.name} to {temporary.parent.parent}; make room, or "
                    "leave backend out"
                ) from cause
            lacks[side] = brief(error)
    note = {
        "identity": model.identity,
        "files": {path.name: _digest(path) for path in sorted(temporary.iterdir())},
        "lacks": lacks,
    }
    (temporary / _NOTE).write_text(json.dumps(note, indent=1), encoding="utf-8")
    if temporary.parent.parent != folder.parent:
        _TEMPORARY.append(holder)
        return temporary
    try:
        temporary.rename(folder)
    except OSError:  # another process was faster
        if not folder.exists():
            raise
    holder.cleanup()
    return folder


_TEMPORARY: list[Any] = []
"""Folders of graphs that the cache could not hold."""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
