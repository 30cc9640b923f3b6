"""Adapting a model to few images: the time that MaPLe takes, and the memory that LoRA takes.

    seconds by the clock of training MaPLe on `tiny`, 16 shots of 10 classes, `small` as it is: at most 60
    peak bytes of a step beyond the model: LoRA of rank 8 on ViT-B/32, batch 8, at most half of full fine-tuning

Weights of ViT-B/32 are random: the bytes do not depend on them. Each side has a process of its own.
"""

import tempfile
from pathlib import Path

import torch

from benchmarks.measure import against, forget_peak, held, in_child, judged, peak_bytes, seconds
from diptych.data.tokenizers import build
from diptych.methods.make import Make
from diptych.methods.registry import method_class

PACKAGES = ("peft",)
LIMIT = 60.0
B32 = {
    "image": "vit:image_size=224:patch=32:width=768:depth=12:heads=12:pre_norm=true",
    "text": "text:width=512:depth=12:heads=8",
    "embed_dim": 512,
}
# What malloc gives back at once cannot count as held later.
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}


def run(batch: int = 8) -> list[dict]:
    took = in_child(maple)
    memory = against(
        *(in_child(extra, name, batch, environment=GIVES_BACK) for name in ("lora", "fine_tune"))
    )
    return [
        judged(
            "maple on tiny, 16 shots of 10 classes (theirs: the limit)",
            "s",
            against(took, LIMIT),
            1.0,
        ),
        judged(
            f"lora against fine_tune, ViT-B/32, batch {batch}, beyond the model",
            "bytes",
            memory,
            0.5,
        ),
    ]


def maple() -> float:
    """Seconds by the clock, the images' drawing included."""
    from diptych.front.training import train

    objects = "cat+elephant+penguin+fish+butterfly+crab+mushroom+cactus+banana+pineapple"
    data = (
        f"scenes:number=1:styles=neon:count=400:texts=caption:objects={objects}:shots=16:of=object"
    )
    with tempfile.TemporaryDirectory() as folder:
        return seconds(
            lambda: train(
                "maple",
                data,
                Path(folder) / "run",
                init="tiny",
                config={"label": "object"},
                quiet=True,
            )
        )[1]


def extra(name: str, batch: int) -> int:
    """Bytes of this process's peak in steps of a method beyond what it holds with model and
    batch."""
    torch.manual_seed(0)
    cls = method_class(name)
    config = cls.configure({"text": True} if name == "fine_tune" else {})
    make = Make(**B32, tokenizer=build("clip"), adapter=cls.adapter(config))
    method = cls.of(config, make)
    method.model.set_classes([f"thing {number}" for number in range(10)])
    learnt = [parameter for parameter in method.parameters() if parameter.requires_grad]
    pixels = torch.randint(256, (batch, 3, 224, 224), dtype=torch.uint8)
    labels = torch.arange(batch) % 10
    method.train()
    with torch.no_grad():
        method.model(pixels)  # a warm-up of what any forward pass allocates once
    forget_peak()
    before = held()
    optimizer = torch.optim.AdamW(learnt)
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(method.model(pixels), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return peak_bytes() - before
