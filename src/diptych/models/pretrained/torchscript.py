"""Tensors of TorchScript archives, such as OpenAI's CLIP files, read without running their code.

An archive holds a program and `data.pkl`, the modules that it works on. Only the latter is
unpickled, and it may name tensors, `OrderedDict` and the classes of the program, which stand for
inert objects here.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    f"{name}Storage": dtype
    for name, dtype in (
        ("Float", torch.float32),
        ("Half", torch.float16),
        ("BFloat16", torch.bfloat16),
        ("Double", torch.float64),
        ("Long", torch.int64),
        ("Int", torch.int32),
        ("Bool", torch.bool),
    )
}


class Inert:
    """An object of the program: its attributes, without its class."""

    attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def is_torchscript(path: Path) -> bool:
    """Whether a zip archive holds a TorchScript program."""
    with zipfile.ZipFile(path) as archive:
        return any(
            name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist()
        )


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors of an archive's modules, by their names in a state dict.

    Raises UnpicklingError for a pickle that names anything else than tensors and modules, and
    ValueError, KeyError or RuntimeError for a damaged archive.
    """
    with zipfile.ZipFile(path) as archive:
        [name] = [each for each in archive.namelist() if each.endswith("/data.pkl")]
        with archive.open(name) as file:
            root = _Unpickler(file, archive, name.removesuffix(".pkl")).load()
    if not isinstance(root, Inert):
        raise pickle.UnpicklingError("no module")
    return dict(_tensors(root, "", ()))


def _tensors(module: Inert, prefix: str, above: tuple[Inert, ...]) -> Iterator[tuple[str, Tensor]]:
    if any(module is each for each in above):
        raise ValueError("a module is part of itself")
    for name, value in vars(module).get("attributes", {}).items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Inert):
            yield from _tensors(value, f"{prefix}{name}.", (*above, module))


class _Unpickler(pickle.Unpickler):
    """Unpickle modules; the storages of their tensors are members of the archive, in `folder`."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str):
        super().__init__(file)
        self.archive = archive
        self.folder = folder
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return Inert
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it names {kind}")
        if key not in self.storages:
            member = self.archive.getinfo(f"{self.folder}/{key}")
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError("a storage is compressed")
            self.storages[key] = torch.frombuffer(bytearray(self.archive.read(member)), dtype=dtype)
        return self.storages[key]


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)
