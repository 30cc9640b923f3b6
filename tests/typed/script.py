"""What a user writes, for pyright: `make lint` checks this file, and nothing runs it.

A comment `# pyright: ignore[RULE]` stands where the checker must find a mistake.
"""

# pyright: strict, reportUnknownMemberType=false, reportUnnecessaryTypeIgnoreComment=true

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import torch
from torch import Tensor, nn

import diptych
from diptych.objectives import Objective, info_nce, sigmoid_pairs
from diptych.towers.nn.parts import Temperature


def load() -> None:
    model = diptych.load("tiny", device="cpu")
    assert_type(model, diptych.Model)
    assert_type(model.embed_texts(["a cat"]), Tensor)
    images = [np.zeros((4, 4, 3), np.uint8), "cat.jpg", Path("dog.jpg")]
    assert_type(model.similarity(model.embed_images(images), model.embed_texts("a cat")), Tensor)
    assert_type(model.save("mine"), Path)
    assert_type(diptych.load("tiny-lm"), diptych.LanguageModel)
    assert_type(diptych.load("tiny-lm").generate("a", max_tokens=3), list[str])
    assert_type(diptych.load("tiny-vlm").generate(["a.png"], ["what is it?"]), list[str])
    other = diptych.load(Path("runs/mine"), precision="bfloat16")
    assert_type(other, diptych.Model | Any)
    diptych.load("tiny", device=0)  # pyright: ignore[reportArgumentType, reportCallIssue]


def train() -> None:
    pairs = [("cat.jpg", "a cat"), ("dog.jpg", "a dog")]
    run = diptych.train("clip", pairs, "runs/mine", val="val/", lr=1e-4, epochs=3, seed=1)
    assert_type(run, diptych.Run)
    assert_type(run.history, list[dict[str, Any]])
    diptych.train("clip", {"train": "photos/"}, Path("runs/two"), ema=None, precision="bfloat16")
    diptych.train("clip", "photos/", "runs/three", lr="high")  # pyright: ignore[reportArgumentType]
    diptych.train("clip", "photos/", "runs/four", epoch=3)  # pyright: ignore[reportCallIssue]


class Photos(torch.utils.data.Dataset[tuple[str, str]]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[str, str]:
        return "cat.jpg", "a cat"


def use(model: diptych.Model) -> None:
    diptych.embed(model, Photos(), "emb")
    hits = diptych.search("emb", "a cat", k=3, model=model)
    print([hit.score for hit in hits], hits[0].image_path)
    print(diptych.classify("tiny", "photos/", ["cat", "dog"])[0].classes[0][0])
    print(diptych.evaluate(model, Photos())["retrieval"]["t2i_r1"])
    print(diptych.check(Photos(), val="val/").report.bad_share)
    print(diptych.index("emb", recall=0.95).nprobe)
    print(diptych.export(model, "onnx", "onnx").texts)
    print(diptych.reproduce("lion", quick=True)["verdict"])
    diptych.embed(model, 3, "emb")  # pyright: ignore[reportArgumentType]


def losses(x: Tensor, y: Tensor) -> None:
    assert_type(info_nce(x, y, 10.0), Tensor)
    loss = Objective(sigmoid_pairs, scale=Temperature(10.0), bias=nn.Parameter(torch.tensor(-9.0)))
    loss(x, y).backward()
    info_nce(x, y)  # pyright: ignore[reportCallIssue]
