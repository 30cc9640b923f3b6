"""CoCa, the preset `small`: a training step at batch 32, captions of 15 tokens, against that of the
same model with caption weight 0; and 32 tokens of greedy captions with the cache against reading all
tokens anew for each.

Both write the same tokens. The paper tells 1.18 times the compute of contrast alone at its size,
whose image tower is a larger part of the whole.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import torch

from benchmarks.material import captions
from benchmarks.measure import interleaved, judged
from diptych.data.batch import Batch, Images, Tokens
from diptych.data.tokenizers import build as build_tokenizer
from diptych.methods.base import At
from diptych.methods.fuse.coca import CoCa
from diptych.methods.make import Make
from diptych.models.generate import generate
from diptych.training.optim import build
from diptych.training.step import Step, forward_backward

PACKAGES = ()
BATCH = 32
LENGTH = 15  # tokens of a caption, its start and end among them
TOKENS = 32
BARS = (1.5, 1 / 3)


def run(
    pairs: int = 15, batch: int = BATCH, tokens: int = TOKENS, image: str | None = None
) -> list[dict]:
    step, contrast = (_step(_method(weight, image), batch) for weight in (2.0, 0.0))
    times = interleaved(step, contrast, pairs)
    what = f"coca small, batch {batch}, captions of {LENGTH} tokens"
    rows = [judged(f"{what}, a step against caption weight 0", "CPU s", times, BARS[0])]
    cached, anew = _writing(_method(2.0, image), batch, tokens)
    assert cached() == anew()
    times = interleaved(cached, anew, pairs)
    what = f"coca small, batch {batch}, {tokens} tokens"
    return [*rows, judged(f"{what}, cached against uncached", "CPU s", times, BARS[1])]


def _method(caption: float, image: str | None) -> CoCa:
    """The preset with random weights, and twice the context, for prompts and what is written."""
    small = CoCa.preset("small")
    tokenizer = build_tokenizer(f"{small.tokenizer.partition(':context')[0]}:context=64",
                                iter(captions(1000)))  # fmt: skip
    torch.manual_seed(0)
    make = Make(image=image or small.image, text=small.text, embed_dim=small.embed_dim,
                tokenizer=tokenizer)  # fmt: skip
    return CoCa(CoCa.configure({**small.config, "caption": caption, "augment": None}), make)


def _step(method: CoCa, batch: int) -> Callable[[], float]:
    method.train()
    tokenizer = method.make.tokenizer
    side = method.model.image.image_size
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randn(batch, 1, 3, side, side, generator=draws)
    words = [word for text in captions(1000) for word in tokenizer.ids(text)]
    inside = LENGTH - len(tokenizer.before) - len(tokenizer.after)
    texts = islice(cycle(words), batch * inside)
    ids = torch.tensor(
        [[*tokenizer.before, *islice(texts, inside), *tokenizer.after] for _ in range(batch)]
    )
    lengths = torch.full((batch,), LENGTH)
    data = Batch(
        {"main": Images(pixels)},
        {"main": Tokens(ids[:, None], lengths[:, None])},
        keys=[str(number) for number in range(batch)],
    )
    recipe = replace(CoCa.preset("small").recipe, lr=1e-5)
    optimizer = build(method, recipe, {})
    step = Step(method, "float32")

    def take() -> float:
        optimizer.zero_grad()
        total = forward_backward(step, data, At(0, 1, 0, 0)).total
        optimizer.step()
        return total.item()

    return take


def _writing(
    method: CoCa, batch: int, tokens: int
) -> tuple[Callable[[], list[list[int]]], Callable[[], list[list[int]]]]:
    """Greedy captions with the cache, and by reading everything anew for each token."""
    model: Any = method.model.eval()
    side = model.image.image_size
    with torch.inference_mode():
        memory = model.see(torch.randn(batch, 3, side, side))
    first = torch.full((batch, 1), model.words.before[0])
    mask = torch.ones_like(first, dtype=torch.bool)

    def cached() -> list[list[int]]:
        with torch.inference_mode():
            return generate(
                model.lm, first, mask, memory=memory, strategy="greedy", max_tokens=tokens
            )

    def anew() -> list[list[int]]:
        ids = first
        with torch.inference_mode():
            for _ in range(tokens):
                hidden = model.lm(ids, memory=memory)
                ids = torch.cat([ids, model.lm.logits(hidden[:, -1:]).argmax(-1)], 1)
        return ids[:, 1:].tolist()

    return cached, anew
