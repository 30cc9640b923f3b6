"""Export to ONNX: image.onnx maps uint8 pixels, text.onnx ids, to unit vectors; preprocessing and
tokenizer are separate files.

Dimensions: N images or texts, L ids per text, S pixels per side, E embedding.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Clip, SentencePiece, from_dict, pad_batch
from diptych.errors import InputError, brief
from diptych.models.export import _common as common
from diptych.models.model import Model, TextModel, evaluating
from diptych.towers.dual import DualEncoder

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INSTALL = "'diptych[export]'"
FORMAT = "diptych-onnx/1"


class ImageGraph(nn.Module):
    """The graph from uint8 pixels (N, 3, S, S) to unit vectors (N, E), normalisation by mean and
    std included."""

    def __init__(self, encoder: DualEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder.embed_images(pixels)


class TextGraph(nn.Module):
    """The graph from ids (N, L) and lengths (N,), both int64, to unit vectors (N, E)."""

    def __init__(self, encoder: DualEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return self.encoder.embed_texts(ids, lengths)


def misfit(model: Model) -> str | None:
    """Why its tokenizer has no file, or None: any tower is tried; `write` raises InputError if torch
    cannot trace it."""
    tokenizer = common.tokenizer_of(model)
    if not isinstance(tokenizer, SentencePiece | common.PIPELINES):
        return f"its tokenizer is of kind {tokenizer.kind}, which tokenizer.json has no form of"
    return None


def notes(model: Model) -> list[str]:
    """Inherent differences of the target."""
    return [common.MENDS] * isinstance(model.tokenizer, Clip)


def write(model: Model, folder: Path) -> None:
    """Write both graphs, diptych.json (preprocessing, tokenizer, temperature) and tokenizer.json or
    spiece.model."""
    tokenizer = common.tokenizer_of(model)
    for side in ("image", "text"):
        write_graph(model, side, folder / f"{side}.onnx")
    if isinstance(tokenizer, SentencePiece):
        common.write_tokenizer(tokenizer, folder)
    else:
        pipeline = common.rust(tokenizer)
        pipeline.enable_truncation(tokenizer.context)
        pad = {"pad_id": tokenizer.pad, "pad_token": pipeline.id_to_token(tokenizer.pad)}
        fixed = tokenizer.context if tokenizer.padding == "max" else None
        pipeline.enable_padding(**pad, length=fixed)
        pipeline.save(str(folder / "tokenizer.json"))
    bias = model.encoder.logit_bias
    common.write_json(
        folder / "diptych.json",
        {
            "format": FORMAT,
            "model": model.name,
            "identity": model.identity,
            "embed_dim": model.encoder.embed_dim,
            "preprocess": model.preprocess.to_dict(),
            "tokenizer": tokenizer.to_dict(),
            "logit_scale": float(model.encoder.logit_scale().detach()),
            "logit_bias": None if bias is None else float(bias.detach()),
        },
    )


def embed(
    folder: Path, images: Sequence[Image.Image], texts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Unit vectors (N, E) by onnxruntime, in batches of different sizes."""
    stored = json.loads((folder / "diptych.json").read_text(encoding="utf-8"))
    preprocess = Preprocess.from_dict(stored["preprocess"])
    tokenizer = from_dict(stored["tokenizer"])
    pixels = torch.stack([preprocess(image) for image in images])
    rows = tokenizer.encode(texts)
    image, text = (_session(folder / name) for name in ("image.onnx", "text.onnx"))
    parts = [image({"pixels": part}) for part in (pixels[:1], pixels[1:])]
    batches = [pad_batch(part, tokenizer) for part in (rows[:1], rows[1:-1], rows[-1:])]
    return torch.cat(parts), torch.cat(
        [text({"ids": ids, "lengths": lengths}) for ids, lengths in batches]
    )


def _session(path: Path) -> Any:
    """A function from named tensors to the graph's only output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda given: torch.from_numpy(
        session.run(None, {name: x.numpy() for name, x in given.items()})[0]
    )


def write_graph(model: TextModel, side: str, path: Path) -> None:
    """Write the graph of one side, "image" or "text", for batches of any size and texts of any
    length.

    Raises InputError if torch cannot trace the tower.
    """
    batch = torch.export.Dim("batch", max=1 << 20)
    if side == "image":
        pixels = torch.zeros(2, *model.preprocess.shape, dtype=torch.uint8)
        graph: nn.Module = ImageGraph(model.encoder)
        _trace(model, graph, path, {"pixels": pixels}, {"pixels": {0: batch}})
        return
    tokenizer = common.tokenizer_of(model)
    ids, lengths = pad_batch(tokenizer.encode(["two words", "a"]), tokenizer)
    dynamic = {0: batch}
    if tokenizer.padding != "max":  # such a tower attends to padding: one length alone is exact
        dynamic[1] = torch.export.Dim("length", max=tokenizer.context)
    _trace(
        model,
        TextGraph(model.encoder),
        path,
        {"ids": ids, "lengths": lengths},
        {"ids": dynamic, "lengths": {0: batch}},
    )


def _trace(
    model: TextModel,
    module: nn.Module,
    path: Path,
    given: dict[str, Tensor],
    dynamic: dict[str, Any],
) -> None:
    """Write a module as an ONNX file; weights too large for it are stored in a second file."""
    try:
        with evaluating(model.encoder), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter's deprecation warnings
            program = torch.export.export(
                module.eval(), tuple(given.values()), dynamic_shapes=tuple(dynamic.values())
            )
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(given),
                output_names=["vectors"],
                verbose=False,
            )
        assert made is not None
        made.save(str(path), external_data=_bytes(module) > 1 << 30)
    except Exception as error:  # the exporter raises many kinds
        raise InputError(
            f"torch cannot export {path.stem} of {model.name} to ONNX ({brief(error)}); choose another target"
        ) from error


def _bytes(module: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in module.state_dict().values())
