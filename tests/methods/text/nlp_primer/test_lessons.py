"""Lessons of the survey as warnings, once before training."""

import numpy as np
import pytest
import torch
from tests.factories import AT, small_make

from diptych.data.sample import Field, Sample, Text
from diptych.methods.make import NO_TOWER
from diptych.methods.text.nlp_primer import NLPPrimer
from diptych.methods.text.nlp_primer.lessons import same_label
from diptych.training.prepare import Run

TEXT = "text:width=16:depth=1:heads=2:causal=false:pooling=mean:dropout=0.1"


class Labelled:
    """Texts, of which the first `rare` have class 1, and all others class 0."""

    name = "labelled"

    def __init__(self, rare: int):
        self.rare = rare

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Sample:
        labels = {"label": int(index < self.rare)}
        return Sample(key=str(index), source="labelled", texts=[Text(text="a cat")], labels=labels)

    def keys(self) -> list[str]:
        return [str(at) for at in range(len(self))]

    def schema(self) -> dict[str, Field]:
        label = Field(kind="int", classes=("common", "rare"))
        return {"texts.caption": Field(kind="str"), "labels.label": label}


def warned(caplog, objective, batch_size, rare=20):
    make = small_make(image=NO_TOWER, text=TEXT, embed_dim=16)
    made = NLPPrimer.of(NLPPrimer.configure({"objective": objective}), make)
    source = Labelled(rare)
    made.setup({"train": source})
    caplog.clear()
    run = Run(made, {"train": source}, AT, torch.device("cpu"), batch_size=batch_size)
    for stage in made.stages():
        if stage.prepare:
            stage.prepare(run)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    "objective",
    ["simcse", "triplet", "consert", "capt", "supcon", "supcon_tuning", "cless", "label_text"],
)
def test_a_small_batch_of_negatives_is_warned_of(caplog, objective):
    [found] = warned(caplog, objective, 4)
    assert "negatives from the batch, which has 4 texts; raise --batch-size" in found
    assert warned(caplog, objective, 64) == []


@pytest.mark.parametrize(
    "objective", ["cless:pool=vocabulary", "triplet:positive=caption:negative=caption", "electra"]
)
def test_negatives_from_elsewhere_need_no_large_batch(caplog, objective):
    assert warned(caplog, objective, 4) == []


@pytest.mark.parametrize("objective", ["supcon", "supcon_tuning", "label_text"])
def test_labels_that_nearly_all_collide_are_warned_of(caplog, objective):
    [found] = warned(caplog, objective, 64, rare=1)
    assert "95 % of the pairs of texts have the same label" in found  # 39 * 38 of 40 * 39
    assert warned(caplog, objective, 64, rare=5) == []
    assert warned(caplog, "simcse", 64, rare=1) == []


def test_the_share_of_equal_pairs_is_that_of_loops():
    values = np.random.default_rng(0).integers(-1, 4, 30)
    known = [int(value) for value in values if value >= 0]
    pairs = [(a, b) for a in range(len(known)) for b in range(len(known)) if a != b]
    equal = sum(known[a] == known[b] for a, b in pairs)
    assert same_label(values) == pytest.approx(equal / len(pairs))
    assert same_label(np.array([-1, 3])) == 0
