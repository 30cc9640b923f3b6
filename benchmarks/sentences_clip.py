"""ViT-B/32, images from PIL and captions from strings to unit vectors, against sentence-transformers'
CLIP with the same weights.

Its model is a folder that diptych exported, loaded with each of its back ends: torch in float32 and
in bfloat16, ONNX, OpenVINO in float32 and in its own choice of precision. One that cannot be built,
or whose vectors differ, is reported as not measured, with the reason. diptych's side is the fastest
backend of each tower; in float32 it is compared with the fastest of the peer's back ends in float32,
and with `precision="auto"` with the fastest of all.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from benchmarks.material import captions, least_cosine, peer, photographs, same_weights
from benchmarks.measure import fastest, interleaved, judged
from diptych.errors import brief
from diptych.models.export import sentence_transformers as folder_format

PACKAGES = ("sentence-transformers", "transformers", "openvino", "onnxruntime")
IMAGES = 128
TEXTS = 512
BATCH = 64
BAR = 1 / 1.2
LEAST = {"float32": 1 - 1e-6, "bfloat16": 0.999}  # cosine
Embed = Callable[[Sequence[Any]], Tensor]


def run(images: int = IMAGES, texts: int = TEXTS, pairs: int = 7) -> list[dict]:
    inputs = {"images": photographs(images, (500, 375)), "captions": captions(texts)}
    rows = []
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = peer()[0]
        exact = same_weights(model, folder, "float32")
        right = {"images": exact.embed_images, "captions": exact.embed_texts}
        (folder / "st").mkdir()
        folder_format.write(exact, folder / "st")
        found = {side: backends(folder / "st", inputs[side], right[side]) for side in inputs}
        for precision in ("float32", "auto"):
            twin = same_weights(model, folder, precision, backend="auto")
            ours = {"images": twin.embed_images, "captions": twin.embed_texts}
            for side, given in inputs.items():
                ways, lacking = found[side]
                fit = {name: way for name, way in ways.items() if precision in ("auto", name[1])}
                mine = partial(ours[side], given, batch_size=BATCH)
                line = _row(f"{len(given)} {side}, {precision}", mine, fit, given, pairs)
                rows.append({**line, "computed_by": twin.computed_by, "not_measured": lacking})
    return rows


def backends(
    folder: Path, given: Sequence[Any], right: Embed
) -> tuple[dict[tuple[str, str], Embed], dict[str, str]]:
    """What embeds such inputs with each back end that works, by its name and precision, and why the
    others do not."""
    found: dict[tuple[str, str], Embed] = {}
    lacking = {}
    some = given[:4]
    for name, precision, options in _ways():
        try:
            model: Any = SentenceTransformer(
                str(folder),
                device="cpu",
                local_files_only=True,
                backend=name,  # type: ignore[arg-type]
                model_kwargs=options,
            )
            embed = partial(
                model.encode, batch_size=BATCH, convert_to_tensor=True, show_progress_bar=False
            )
            cosine = least_cosine(right(some), embed(some))
        except Exception as error:  # its back ends raise many kinds
            lacking[f"{name} in {precision}"] = brief(error, 200)
            continue
        if cosine >= LEAST[precision]:
            found[name, precision] = embed
        else:
            lacking[f"{name} in {precision}"] = f"a cosine to the others' is {cosine:.5f}"
    return found, lacking


def _ways() -> list[tuple[str, str, dict[str, Any]]]:
    """Back ends of sentence-transformers: name, precision, options of the model."""
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    exact = {**threads, "INFERENCE_PRECISION_HINT": "f32"}
    return [
        ("torch", "float32", {"dtype": "float32"}),
        ("torch", "bfloat16", {"dtype": "bfloat16"}),
        ("onnx", "float32", {"provider": "CPUExecutionProvider", "session_options": _session()}),
        ("openvino", "float32", {"ov_config": exact}),
        ("openvino", "bfloat16", {"ov_config": threads}),
    ]


def _session() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return options


def _row(
    what: str,
    ours: Callable[[], Tensor],
    ways: Mapping[tuple[str, str], Embed],
    given: Sequence[Any],
    pairs: int,
) -> dict:
    calls = {" in ".join(name): partial(way, given) for name, way in ways.items()}
    best = fastest(calls)
    cosine = least_cosine(ours(), calls[best]())
    assert cosine >= LEAST["bfloat16"], (what, cosine)
    what = f"ViT-B/32, {what}, backend auto, against sentence-transformers"
    line = judged(what, "CPU s", interleaved(ours, calls[best], pairs), BAR)
    return {**line, "cosine": cosine, "theirs_by": best}
