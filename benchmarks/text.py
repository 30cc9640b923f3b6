"""ViT-B/32 captions, from strings to unit vectors, against open_clip's tokenizer and
`encode_text`."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks.material import captions, least_cosine, peer, same_weights
from benchmarks.measure import flops, interleaved, judged, roofline

PACKAGES = ("open_clip_torch",)
COUNT = 256
BATCH = 64


def run(count: int = COUNT, pairs: int = 7) -> list[dict]:
    model, _, tokenize = peer()
    texts = captions(count)

    def theirs() -> Tensor:
        with torch.inference_mode():
            batches = (texts[i : i + BATCH] for i in range(0, count, BATCH))
            return torch.cat(
                [model.encode_text(tokenize(batch), normalize=True) for batch in batches]
            )

    rows = []
    work = 0
    with TemporaryDirectory() as folder:
        for precision, bar in (("float32", 1 / 3.5), ("auto", 1 / 7)):
            twin = same_weights(model, Path(folder), precision)
            ours = partial(twin.embed_texts, texts, batch_size=BATCH)
            mine = ours()
            right = theirs()
            difference = (mine - right).abs().max().item()
            cosine = least_cosine(mine, right)
            assert difference <= 1e-6 if precision == "float32" else cosine >= 0.999, (
                difference,
                cosine,
            )
            work = work or flops(ours)
            times = interleaved(ours, theirs, pairs)
            share = roofline(work, times["ours"], twin.precision)
            line = judged(f"ViT-B/32, {count} captions, {precision}", "CPU s", times, bar, share)
            rows.append({**line, "difference": difference, "cosine": cosine})
    return rows
