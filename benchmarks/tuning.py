"""Five epochs of tuning on 2,000 captioned images, against sentence-transformers' trainer: seconds,
and recall on images that neither saw.

Both start from one ViT that `diptych train clip` trains on 20,000 scenes and exports as a folder of
sentence-transformers, and read the same PNG files in another style. Both minimise the symmetric
softmax loss at the model's temperature with AdamW: the same batch size, rate, decay, warm-up and
clipping, no augmentation, no evaluation on the way. Each side has a process of its own; seconds are
those of training alone, with decoding.

A start at chance does not count: the row is not measured if the start finds fewer than `FLOOR` of
the new images among the first ten.
"""

import csv
import os
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.measure import against, in_child, judged, seconds, summary
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.metrics import recall_at_k

PACKAGES = ("sentence-transformers", "transformers")
OLD = "scenes:number=1+2:count={count}:seed=7"
NEW = "scenes:number=1+2:count={count}:seed={seed}:styles=neon"
TOWERS = {
    "image_tower": "vit:image_size=64:patch=8:width=160:depth=5:heads=5:pre_norm=true",
    "text_tower": "text:width=160:depth=4:heads=5",
    "tokenizer": "bpe:vocab_size=2048:context=32",
    "embed_dim": 160,
}
PAIRS, TEST = 2_000, 500
RECIPE = {"lr": 1e-4, "weight_decay": 0.1, "warmup": 0.1, "clip": 1.0, "batch_size": 64}
FLOOR = 0.2
HOME = "DIPTYCH_BENCH"
"""The environment variable of a folder that keeps the start between runs of this row."""


def run(
    pairs: int = 3,
    epochs: float = 5,
    start: int = 20_000,
    start_epochs: float = 2,
    count: int = PAIRS,
    floor: float = FLOOR,
) -> list[dict]:
    if find_spec("sentence_transformers") is None:
        raise InputError(
            "benchmarks.tuning needs sentence-transformers; install it with: pip install 'diptych[test]'"
        )
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        home = Path(os.environ.get(HOME, folder))
        begin = home / f"start-{start}-{start_epochs:g}"
        if not begin.exists():
            in_child(trained, begin, start, start_epochs)
        for name, number, seed in (("train", count, 1), ("test", TEST, 2)):
            drawn(folder / name, number, seed)
        at_start = in_child(recall, "theirs", begin / "export", folder)
        if at_start < floor:
            raise InputError(f"the start finds {at_start:.3f} among the first ten, near chance")
        times = []
        found = []
        for number in range(pairs):
            each = [
                in_child(work, begin, folder, folder / f"{side}-{number}", epochs, number)
                for side, work in (("ours", ours), ("theirs", theirs))
            ]
            times.append((each[0], each[1]))
            found.append(
                [
                    in_child(recall, side, folder / f"{side}-{number}", folder)
                    for side in ("ours", "theirs")
                ]
            )
    missed = [1 - sum(each) / pairs for each in zip(*found, strict=True)]
    what = f"tuning on {count:,} pairs, {epochs:g} epochs"
    return [
        {**judged(what, "CPU s", summary(times), 0.6), "recall_of_start": at_start},
        {
            **judged(f"{what}, not among the first ten", "share", against(*missed), 1.0),
            "recalls": found,
        },
    ]


def trained(begin: Path, count: int, epochs: float) -> None:
    """Train the start on scenes and export it."""
    from diptych.front.training import train
    from diptych.models.export import export

    train("clip", OLD.format(count=count), begin / "run", epochs=epochs, quiet=True, **TOWERS)
    export(_loaded(begin / "run"), "sentence-transformers", begin / "export")


def drawn(folder: Path, count: int, seed: int) -> None:
    """Write scenes as PNG files and a table of their captions."""
    folder.mkdir()
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["filepath", "caption"])
        for number, sample in enumerate(open_source(NEW.format(count=count, seed=seed))):
            sample.images["main"].decode().save(folder / f"{number:05}.png")
            rows.writerow([f"{number:05}.png", sample.captions()[0]])


def table(folder: Path) -> list[tuple[str, str]]:
    """The rows of a table, with whole paths."""
    with (folder / "pairs.csv").open(newline="", encoding="utf-8") as file:
        return [(str(folder / row["filepath"]), row["caption"]) for row in csv.DictReader(file)]


def ours(begin: Path, folder: Path, out: Path, epochs: float, seed: int) -> tuple[float, float]:
    from diptych.training.config import resolve
    from diptych.training.run import run

    config = resolve(
        "clip",
        {"train": str(folder / "train" / "pairs.csv")},
        preset="tune",
        init=str(begin / "run"),
        config={"augment": None, "decay": 1.0},
        recipe={**RECIPE, "epochs": epochs},
        options={"quiet": True, "seed": seed},
    )
    return seconds(lambda: run(config, out))


def theirs(begin: Path, folder: Path, out: Path, epochs: float, seed: int) -> tuple[float, float]:
    from datasets import Dataset, Image
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesSymmetricRankingLoss

    model: Any = SentenceTransformer(str(begin / "export"), device="cpu", local_files_only=True)
    paths, texts = zip(*table(folder / "train"), strict=True)
    data = Dataset.from_dict({"image": list(paths), "text": list(texts)}).cast_column(
        "image", Image()
    )
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(out / "trainer"),
        num_train_epochs=epochs,
        per_device_train_batch_size=RECIPE["batch_size"],
        learning_rate=RECIPE["lr"],
        weight_decay=RECIPE["weight_decay"],
        warmup_ratio=RECIPE["warmup"],
        max_grad_norm=RECIPE["clip"],
        lr_scheduler_type="cosine",
        adam_beta2=0.98,
        adam_epsilon=1e-6,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        use_cpu=True,
        seed=seed,
        disable_tqdm=True,
    )
    scale = float(_loaded(begin / "run").encoder.logit_scale().detach())
    loss = MultipleNegativesSymmetricRankingLoss(model, scale=scale)
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
    spent = seconds(trainer.train)
    model.save_pretrained(str(out))
    return spent


def recall(side: str, model: Path, folder: Path) -> float:
    """recall@10 on the new images, the mean of both directions, embedded by the library of a
    side."""
    paths, texts = map(list, zip(*table(folder / "test"), strict=True))
    if side == "ours":
        mine = _loaded(model)
        images, words = mine.embed_images(paths), mine.embed_texts(texts)
    else:
        from PIL import Image
        from sentence_transformers import SentenceTransformer

        peer: Any = SentenceTransformer(str(model), device="cpu", local_files_only=True)
        opened = [Image.open(path).convert("RGB") for path in paths]
        images, words = (
            torch.as_tensor(peer.encode(given, show_progress_bar=False))
            for given in (opened, texts)
        )
    own = np.arange(len(paths))
    directions = ((words, images), (images, words))
    return sum(recall_at_k(*each, own, (10,))[10] for each in directions) / 2


def _loaded(run: Path) -> Any:
    import diptych

    return diptych.load(run)
