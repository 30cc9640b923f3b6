"""ViT-B/32 images, from preprocessed tensors to unit vectors, against open_clip's
`encode_image`."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks.material import least_cosine, peer, photographs, same_weights
from benchmarks.measure import flops, interleaved, judged, roofline

PACKAGES = ("open_clip_torch",)
COUNT = 128
BATCH = 64


def run(count: int = COUNT, pairs: int = 7) -> list[dict]:
    model, preprocess, _ = peer()
    pixels = torch.stack([preprocess(photo) for photo in photographs(count, (500, 375))])

    def theirs() -> Tensor:
        with torch.inference_mode():
            return torch.cat(
                [model.encode_image(batch, normalize=True) for batch in pixels.split(BATCH)]
            )

    rows = []
    work = 0
    with TemporaryDirectory() as folder:
        for precision, bar in (("float32", None), ("auto", 1 / 1.8)):
            twin = same_weights(model, Path(folder), precision)
            ours = partial(twin.embed_images, pixels, batch_size=BATCH)
            cosine = least_cosine(ours(), theirs())
            assert cosine >= 0.999, cosine
            work = work or flops(ours)
            times = interleaved(ours, theirs, pairs)
            share = roofline(work, times["ours"], twin.precision)
            what = f"ViT-B/32, {count} images, {precision}"
            rows.append({**judged(what, "CPU s", times, bar, share), "cosine": cosine})
    return rows
