"""Contrastive search of 5 candidates against greedy decoding, batch 8: CPU seconds a token, on our
towers and on a model of transformers (GPT-2's layers at the same size).

Both write the same number of tokens after prompts of different lengths, padded on the left.
Contrastive search reads five candidates for each token that greedy decoding reads once. At alpha 0
its texts must be those of greedy decoding.
"""

from typing import Any

import torch

from benchmarks.measure import interleaved, judged
from diptych.models.generate import generate
from diptych.models.language import CausalLM
from diptych.models.pretrained.hf_lm import HFCausalLM
from diptych.towers.build import text_tower

PACKAGES = ("transformers",)
K = 5
BATCH = 8
BAR = 2.0
SHAPE = {"width": 128, "depth": 4, "heads": 4, "vocab": 4096, "context": 128}


def run(
    pairs: int = 7, tokens: int = 96, batch: int = BATCH, shape: dict[str, int] = SHAPE
) -> list[dict]:
    rows = []
    prompt = shape["context"] - tokens
    for name, make in (("tower", tower), ("GPT-2 of transformers", gpt2)):
        torch.manual_seed(0)
        lm = make(shape).eval()
        for parameter in lm.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        ids = torch.randint(0, shape["vocab"], (batch, prompt))
        mask = torch.arange(prompt) >= torch.arange(batch)[:, None] % prompt
        sides = {
            spec: _side(lm, ids, mask, spec, tokens)
            for spec in ("greedy", f"contrastive:k={K}", f"contrastive:k={K}:alpha=0.0")
        }
        assert sides["greedy"]() == sides[f"contrastive:k={K}:alpha=0.0"]()
        times = interleaved(sides[f"contrastive:k={K}"], sides["greedy"], pairs)
        for side in ("ours", "theirs"):
            times[side] /= tokens * batch
        what = f"contrastive search against greedy, k = {K}, batch {batch}, {name}, a token"
        rows.append(judged(what, "CPU s", times, BAR))
    return rows


def _side(lm: Any, ids: torch.Tensor, mask: torch.Tensor, spec: str, tokens: int) -> Any:
    return lambda: generate(lm, ids, mask, strategy=spec, max_tokens=tokens)


def tower(shape: dict[str, int]) -> CausalLM:
    spec = f"text:width={shape['width']}:depth={shape['depth']}:heads={shape['heads']}"
    tower: Any = text_tower(spec, vocab_size=shape["vocab"], context=shape["context"])
    return CausalLM(tower)


def gpt2(shape: dict[str, int]) -> HFCausalLM:
    return HFCausalLM.fresh(
        {
            "model_type": "gpt2",
            "vocab_size": shape["vocab"],
            "n_embd": shape["width"],
            "n_layer": shape["depth"],
            "n_head": shape["heads"],
            "n_positions": shape["context"],
            "bos_token_id": None,
            "eos_token_id": None,
        }
    )
