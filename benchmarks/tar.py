"""From tar shards to batches of 224 px images and token ids with two workers, against open_clip's
own pipeline.

open_clip's is `open_clip_train.data.get_wds_dataset` as it reads validation data: webdataset, PIL,
its evaluation transform and tokenizer. Ours is the loader of training with the same work.
"""

import io
import tarfile
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import open_clip
import torch
from open_clip.transform import image_transform
from open_clip_train.data import get_wds_dataset
from torch import Tensor

from benchmarks.material import NAME, captions, photographs
from benchmarks.measure import interleaved, judged
from diptych.data.images import CLIP_MEAN, CLIP_STD, Preprocess
from diptych.data.loader import Loader
from diptych.data.plan import Shuffled
from diptych.data.sources import open_source
from diptych.data.tokenizers import Clip
from diptych.data.views import ImageView, TextView

PACKAGES = ("open_clip_torch", "webdataset", "pillow")
SIZES = {(500, 375): (512, 1 / 1.3), (1600, 1200): (192, 1 / 2.5)}  # images, bar
BATCH = 16
WORKERS = 2
SHARDS = 4
CLOSE = (
    0.01  # of the mean of an image's pixels, in units of their standard deviation over photographs
)


def run(pairs: int = 7, share: float = 1.0) -> list[dict]:
    rows = []
    for size, (count, bar) in SIZES.items():
        count = round(count * share)
        with TemporaryDirectory() as folder:
            pattern = write(Path(folder), count, size)
            mine = means(scaled(ours(pattern)))
            right = means(theirs(pattern))
            assert len(mine) == len(right) == count
            assert (mine - right).abs().max() < CLOSE, "the images differ"
            times = interleaved(
                partial(drain, ours, pattern), partial(drain, theirs, pattern), pairs
            )
        what = f"tar to 224 px, {count} of {size[0]}x{size[1]}, {WORKERS} workers"
        rows.append(judged(what, "CPU s", times, bar))
    return rows


def write(folder: Path, count: int, size: tuple[int, int]) -> str:
    """Shards of JPEGs with their captions; the pattern of their names."""
    texts = captions(count)
    photos = photographs(count, size)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for i in range(shard, count, SHARDS):
                jpeg = io.BytesIO()
                photos[i].save(jpeg, "JPEG", quality=90)
                for ending, data in (("jpg", jpeg.getvalue()), ("txt", texts[i].encode())):
                    member = tarfile.TarInfo(f"{i:06}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return f"{folder}/{{0..{SHARDS - 1}}}.tar"


def ours(pattern: str) -> Iterator[Tensor]:
    """Batches of pixels, uint8: a tower scales them where it computes. The workers end with the
    loader."""
    views = [ImageView(preprocess=Preprocess(size=224)), TextView(tokenizer=Clip(), role="caption")]
    loader = Loader(open_source(pattern), views, Shuffled(), BATCH, workers=WORKERS)
    return (batch.image.pixels[:, 0] for batch in loader.epoch(0))


def theirs(pattern: str) -> Iterator[Tensor]:
    """Batches of pixels, float and scaled."""
    options = Namespace(
        val_data=pattern,
        val_num_samples=None,
        train_num_samples=None,
        train_data_upsampling_factors=None,
        workers=WORKERS,
        batch_size=BATCH,
        world_size=1,
        seed=0,
    )
    transform = image_transform(224, is_train=False)
    data = get_wds_dataset(
        options, transform, is_train=False, tokenizer=open_clip.get_tokenizer(NAME)
    )
    return (images for images, _ in data.dataloader)


def drain(side: Callable[[str], Iterator[Tensor]], pattern: str) -> None:
    deque(side(pattern), maxlen=0)


def scaled(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (CLIP_MEAN, CLIP_STD))
    return ((pixels.float() - mean) / std for pixels in batches)


def means(batches: Iterator[Tensor]) -> Tensor:
    """The mean pixel of each image, in ascending order: shuffling does not matter."""
    return torch.cat([pixels.mean((1, 2, 3)) for pixels in batches]).sort().values
