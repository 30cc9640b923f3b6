"""ViT-B/32 from a folder of 500x375 JPEGs to unit vectors, against open_clip behind a DataLoader of
two workers."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.material import least_cosine, peer, photographs, same_weights
from benchmarks.measure import flops, interleaved, judged, roofline

PACKAGES = ("open_clip_torch", "pillow")
COUNT = 128
BATCH = 64
SIZE = (500, 375)


class _Files(Dataset):
    def __init__(self, paths: list[str], preprocess):
        self.paths = paths
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as image:
            return self.preprocess(image)


def run(count: int = COUNT, pairs: int = 7) -> list[dict]:
    model, preprocess, _ = peer()
    rows = []
    work = 0
    with TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{i:04}.jpg") for i in range(count)]
        for path, photo in zip(paths, photographs(count, SIZE), strict=True):
            photo.save(path, quality=90)

        def theirs() -> Tensor:
            loader = DataLoader(_Files(paths, preprocess), batch_size=BATCH, num_workers=2)
            with torch.inference_mode():
                return torch.cat([model.encode_image(batch, normalize=True) for batch in loader])

        for precision, bar in (("float32", None), ("auto", 1 / 1.8)):
            twin = same_weights(model, Path(folder), precision)
            ours = partial(twin.embed_images, paths, batch_size=BATCH)
            cosine = least_cosine(ours(), theirs())
            assert cosine >= 0.999, cosine
            work = work or flops(ours)
            times = interleaved(ours, theirs, pairs)
            share = roofline(
                work, times["ours"], twin.precision
            )  # decoding takes time and gives no operations
            what = f"ViT-B/32, {count} JPEGs of 500x375, {precision}"
            rows.append({**judged(what, "CPU s", times, bar, share), "cosine": cosine})
    return rows
