"""`diptych.load`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from diptych.methods import store
from diptych.models.language import LanguageModel
from diptych.models.model import Model

if TYPE_CHECKING:
    from diptych.models.vlm import VisionLMModel


@overload
def load(
    spec: Literal["tiny"],
    weights: str | Path | None = None,
    precision: str = "float32",
    *,
    device: str = "auto",
    share: float | None = None,
    space: str | None = None,
    backend: str = "torch",
    method: str | Path | None = None,
) -> Model: ...
@overload
def load(
    spec: Literal["tiny-lm"],
    weights: str | Path | None = None,
    precision: str = "float32",
    *,
    device: str = "auto",
    share: float | None = None,
    space: str | None = None,
    backend: str = "torch",
    method: str | Path | None = None,
) -> LanguageModel: ...
@overload
def load(
    spec: Literal["tiny-vlm"],
    weights: str | Path | None = None,
    precision: str = "float32",
    *,
    device: str = "auto",
    share: float | None = None,
    space: str | None = None,
    backend: str = "torch",
    method: str | Path | None = None,
) -> "VisionLMModel": ...
@overload
def load(
    spec: str | Path,
    weights: str | Path | None = None,
    precision: str = "float32",
    *,
    device: str = "auto",
    share: float | None = None,
    space: str | None = None,
    backend: str = "torch",
    method: str | Path | None = None,
) -> Model | Any: ...
def load(
    spec: str | Path,
    weights: str | Path | None = None,
    precision: str = "float32",
    *,
    device: str = "auto",
    share: float | None = None,
    space: str | None = None,
    backend: str = "torch",
    method: str | Path | None = None,
) -> Any:
    """Load a model: a RUN folder, `openclip:NAME[/TAG]`, `hf:REPO_OR_FOLDER`, `hf-lm:FOLDER`,
    `diffusers:FOLDER`, published weights as a method reads them (`albef:FILE`, `sprc:FOLDER`,
    `biovil:FOLDER`, `pixel_linguist:FOLDER`), or one that ships with the package: `tiny`, `tiny-lm`,
    `tiny-vlm`.

    Returns a `Model`, which embeds images and texts; for an encoder of texts alone a `TextModel`,
    for a language model a `LanguageModel`, which generates, for one that reads images too a
    `VisionLMModel`, for a predictor of noise a `DiffusionModel`, and for BLIP-2 a
    `MultiVectorModel`, which scores images with texts.

    - `weights` names a local file for a model of another library: a state dict, safetensors, or a
      Hugging Face folder.
    - `precision` is the type of the computation: "float32", "bfloat16", "int8", or "auto", the
      fastest of them on this machine whose probed embeddings stay within a cosine of 0.9995 of
      float32 (`models.precision`).
    - `backend` is what computes the embeddings of images and texts: "torch", "openvino" or
      "onnxruntime" (on the processor; needs `diptych[fast]`, `diptych[export]`), or "auto", for
      each tower the fastest that is installed (`models.backends`).
    - `device` is "cpu", "cuda" (or "cuda:1"), "mps", or "auto": a GPU if there is one, but for int8.
    - `share` sets the weight of the heads of a model that has two (`DualEncoder.set_share`), in
      place of the share in model.json.
    - `space` chooses one of the embedding spaces of a model that has several (`TextModel.space`).
    - `method` is the method's file of a RUN of your own method, which is run first. A run whose model
      is two of diptych's towers needs none, nor does one that this process has trained.

    Raises InputError if the name, the files or their contents do not fit, and for a device that is
    not there.
    """
    return store.load(
        spec,
        weights,
        precision,
        device=device,
        share=share,
        space=space,
        backend=backend,
        method=method,
    )


def loaded(model: Any, **settings: Any) -> Any:
    """The model of a spec, loaded with `settings`; a model stays as it is."""
    return load(model, **settings) if isinstance(model, str | Path) else model
