"""The files of a model, model.safetensors and model.json, and what writes them.

`methods.store` reads them: it knows the methods that they name.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diptych.errors import InputError
from diptych.files import followed, write_atomic

FORMAT = "diptych-model/1"

DECIDES = (
    "method",
    "config",
    "dual",
    "lm",
    "kept",
    "tokenizer",
    "tokenizer_fingerprint",
    "preprocess",
    "stored",
    "lent",
)
"""The parts of a description that determine embeddings. Their digest detects a file that was
changed by hand, which would otherwise give other embeddings silently."""
METADATA = "diptych-description"


class Saved:
    """The base of models that can be saved: those with a `description`, the values of model.json
    from which `diptych.load` builds them."""

    name: str
    precision: str
    description: Mapping[str, Any] | None = None

    @property
    def _whole(self) -> nn.Module:
        """The module that holds all parameters."""
        raise NotImplementedError

    def _now(self) -> dict[str, Any]:
        """The parts of the description that may have changed since the model was loaded."""
        return {}

    def save(self, folder: str | Path) -> Path:
        """Write the model, with its weights as they are now, to a new folder for `diptych.load`;
        returns its path.

        Raises InputError if the folder exists, and for a model in another precision than float32 or
        not loaded by `diptych.load`.
        """
        folder = followed(folder)
        if folder.exists():
            raise InputError(f"{folder} exists already; name a new folder")
        if self.precision != "float32":
            raise InputError(f"{self.name} is in {self.precision}; load it in float32 to save it")
        if self.description is None:
            raise InputError(
                f"{self.name} was made by hand and not loaded by diptych.load; save the model that it was made of"
            )
        whole = {name: value for name, value in self.description.items() if name != "lent"}
        description = {**whole, "stored": None, **self._now()}
        save_model(folder, description, self._whole.state_dict())
        return folder


def save_model(
    folder: Path, description: Mapping[str, Any], state: Mapping[str, Tensor], *, half: bool = False
) -> None:
    """Write model.safetensors, then model.json with its checksum; a failure leaves the old pair.

    With `half` float32 weights are rounded to float16, half the bytes; `load` returns them as
    float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    if half:
        state = {
            name: value.half() if value.dtype == torch.float32 else value
            for name, value in state.items()
        }
        description = {**description, "stored": "float16"}
    write_atomic(weights, lambda path: save_file(state, path, {METADATA: digest(description)}))
    text = json.dumps({**description, "weights": checksum(weights)}, indent=1, ensure_ascii=False)
    write_atomic(folder / "model.json", lambda path: path.write_text(text, encoding="utf-8"))


def digest(description: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the parts of model.json that determine embeddings; model.safetensors
    stores it too.

    Empty values are left out. It covers the values as they were saved, before old names in them are
    translated.
    """
    saved = json.loads(json.dumps(description))
    decides = {name: saved[name] for name in DECIDES if saved.get(name)}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def checksum(path: Path) -> str:
    """The SHA-256 of a file, as model.json has it."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
