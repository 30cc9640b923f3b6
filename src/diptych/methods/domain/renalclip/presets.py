"""RenalCLIP at its sizes, and at its tasks behind a trained one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diptych.methods.base import Preset, Recipe

SMALL = Preset(
    config={
        "recipes": {
            "attributes": {"lr": 2e-3, "epochs": 10},
            "words": {"lr": 5e-4, "epochs": 5},
            "reports": {"lr": 5e-4, "epochs": 2},
        },
        "image_lr": 1.0,
    },
    image="resnet3d:image_size=32:slices=16:widths=(32,64,128):depths=(1,1,1):stem=3",
    text="text:width=256:depth=1:heads=4:causal=false:pooling=mean:dropout=0.1",
    tokenizer="bpe:vocab_size=1024:context=160:special=mask",
    embed_dim=256,
    recipe=Recipe(lr=2e-3, weight_decay=0.01, warmup=0.1, clip=1.0, batch_size=64, epochs=20),
)
TASK = replace(
    SMALL, recipe=Recipe(lr=5e-4, weight_decay=0.01, warmup=0.1, batch_size=64, epochs=20)
)
# mirrored volumes are of the tasks alone: reports tell left from right
DIAGNOSIS = replace(TASK, config={"task": "diagnosis", "augment": {"flip": True}})
SURVIVAL = replace(
    TASK,
    config={"task": "survival", "augment": {"flip": True}},
    recipe=replace(TASK.recipe, optimizer="adam", weight_decay=0.0),
)
PAPER_TASK: Mapping[str, Any] = {"lr": 1e-5, "batch_size": 150, "epochs": 100}

PROMPT = (
    "[INST] Write the radiology report of this CT scan of a kidney. Findings: what the scan shows. Impression: "
    "what it amounts to. [/INST]"
)
"""What is read behind a volume by a language model that follows instructions [choice]."""

PRESETS: Mapping[str, Preset] = {
    "small": SMALL,
    "paper": Preset(
        config={
            "recipes": {
                "attributes": {
                    "lr": 5e-4,
                    "betas": (0.9, 0.999),
                    "weight_decay": 0.005,
                    "warmup": 0.025,
                    "min_lr": 2e-5,
                    "batch_size": 300,
                    "epochs": 200,
                    "clip": None,
                    "precision": "float32",
                },
                "words": {"lr": 1e-4, "epochs": 1, "batch_size": 256},
                "reports": {"lr": 3e-5, "epochs": 1, "batch_size": 256},
            },
        },
        image="resnet3d:image_size=128:slices=32:scaled_size=140:scaled_slices=40",
        text="text:width=4096:depth=32:heads=32:causal=false:pooling=mean:dropout=0.1",
        tokenizer="bpe:vocab_size=128256:context=224:special=mask",
        embed_dim=4096,
        recipe=Recipe(
            lr=5e-4,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            warmup=0.1,
            min_lr=0.01,
            clip=0.2,
            batch_size=4096,
            epochs=100,
            precision="bfloat16",
        ),
    ),
    "diagnosis": DIAGNOSIS,
    "survival": SURVIVAL,
    "paper_diagnosis": replace(DIAGNOSIS, recipe=replace(DIAGNOSIS.recipe, **PAPER_TASK)),
    "paper_survival": replace(SURVIVAL, recipe=replace(SURVIVAL.recipe, **PAPER_TASK)),
    "report": replace(
        TASK,
        config={"task": "report", "lm": "tiny-lm"},
        recipe=replace(TASK.recipe, lr=1e-3),
    ),
    "paper_report": replace(
        TASK,
        config={
            "task": "report",
            "prompt": PROMPT,
            "tune": "lora:r=4:alpha=4:dropout=0.2:layers=q_proj+v_proj",
            "lm_lr": 0.004,
            "recipes": {"tune": {"lr": 5e-4, "epochs": 2}},
        },
        recipe=Recipe(
            lr=1e-3,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.05,
            warmup=0.1,
            batch_size=30,
            epochs=20,
            precision="bfloat16",
        ),
    ),
}
