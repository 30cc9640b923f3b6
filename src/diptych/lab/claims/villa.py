"""Does a map of regions and attributes, learnt from whole images and texts, make up for texts that speak of
many regions?

Pages of DocMNIST have digits in up to nine cells, and a text that names all attributes of all digits. Pages
of complexity 4 have one digit or two, those of complexity 16 five on average. Both sets have as many pairs
of a region and an attribute in all. A small CLIP learns from further pages of complexity 4 (the prelude);
all arms go on from it with its text tower frozen, for as many steps, at one complexity each, and are asked
for the cells of attributes on the same held-out pages of complexity 16. Nothing that boxes say of their
cells is read in training.

    start       the model before
    whole       whole images and whole texts: the same contrast without regions
    villa       the method: attributes are mapped to cells, which have texts of their own
    random      each map that was found is dealt out anew among the cells of its page
    mean        the mapping scores a page by the mean of its cells in place of the best one
    every       eps = 2: every cell has the whole text

`r16` is the R-Precision of attributes among all cells (suite `attributes`) after pages of complexity 16, `r4`
that after pages of complexity 4, and `kept` r16 / r4. The ablations learn from complexity 16 alone. A
convolution has one dense route, by which all arms are read. `f1` is that of the mapping against the truth.

Not asked: COCO, LVIS and reports, other sources of regions, and larger towers.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.worlds import docmnist
from diptych.data.worlds.docmnist.words import ATTRIBUTES
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better
from diptych.methods.base import Method
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

COMPLEXITIES = (4, 16)
BUDGET = 15_000  # pairs of a region and an attribute
BASE = 3000  # pages of the prelude
MEASURED = 400  # held-out pages
BASE_STEPS = 500
STEPS = 300  # of the mapping, and of the contrast
BATCH = 64
BASE_RATE = 4e-3
MAPPING_RATE = 3e-3
RATES = {"whole": 4e-3, "villa": 4e-3}
TOWER = "conv:image_size=96:widths=(32,64,128):depths=(1,1,1)"
WIDTH = 64  # of the space
TEMPLATES = ("{}",)
CHANCE = 1 / 6  # of R-Precision: the mean over attributes of the share of cells that have one


def begin(trial: Trial) -> dict[str, str]:
    """Write the pages of the seed as shards and train the model that all arms go on from; sources by
    name, and the model."""
    found = {}
    specs = {}
    for complexity in COMPLEXITIES:
        world = docmnist.World(docmnist.Config(complexity=complexity))
        pages = world.within(BUDGET // 15 if trial.quick else BUDGET, trial.seed)
        specs[f"pages{complexity}"] = f"complexity={complexity}:count={pages}"
        if complexity == COMPLEXITIES[0]:
            count = BASE // 15 if trial.quick else BASE
            specs["base"] = f"complexity={complexity}:start={pages}:count={count}"
    specs["test"] = f"split=test:complexity=16:count={MEASURED // 10 if trial.quick else MEASURED}"
    for name, spec in specs.items():
        write_shards(open_source(f"docmnist:{spec}:seed={trial.seed}"), trial.folder / name)
        found[name] = f"{trial.folder / name}/*.tar"
    settings = resolve(
        "clip",
        {"train": found["base"]},
        image_tower=TOWER,
        embed_dim=WIDTH,
        config={"augment": {}},
        recipe={
            "steps": trial.steps(BASE_STEPS, quick=20),
            "batch_size": BATCH,
            "lr": BASE_RATE,
        },
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, trial.folder / "start")
    return {**found, "start": str(trial.folder / "start")}


def trained(
    change: Callable[[Method], None] | None = None,
    *,
    rate: float = RATES["villa"],
    complexities: tuple[int, ...] = (16,),
    **config: Any,
) -> Callable[[Trial], dict[str, float]]:
    """An arm: the model of the prelude, trained on pages of each complexity by the method, with a change."""

    def arm(trial: Trial) -> dict[str, float]:
        found: dict[str, float] = {}
        for complexity in complexities:
            settings = resolve(
                "villa",
                {"train": trial.prelude[f"pages{complexity}"]},
                init=trial.prelude["start"],
                config={
                    "attributes": ATTRIBUTES,
                    "max_boxes": 9,
                    "templates": TEMPLATES,
                    "mapping_lr": MAPPING_RATE,
                    **config,
                },
                recipe={
                    "steps": trial.steps(STEPS, quick=6),
                    "batch_size": BATCH,
                    "lr": rate,
                },
                options={"seed": trial.seed, "quiet": True},
            )
            folder = trial.folder / f"pages{complexity}"
            run(settings, folder, change=change)
            found[f"r{complexity}"] = measure(load(folder), trial)
            if complexity == COMPLEXITIES[-1]:
                mapping = json.loads((folder / "mapping.json").read_text(encoding="utf-8"))
                found["f1"] = mapping["f1"]
        if set(complexities) == set(COMPLEXITIES):
            found["kept"] = found["r16"] / found["r4"]
        return found

    return arm


def start(trial: Trial) -> dict[str, float]:
    """The arm without further training, of which complexity says nothing."""
    found = measure(load(trial.prelude["start"]), trial)
    return {"r4": found, "r16": found, "kept": 1.0}


def measure(model: Any, trial: Trial) -> float:
    """Return the R-Precision of attributes among the cells of held-out pages."""
    source = open_source(trial.prelude["test"])
    found = evaluate(model, source, ["attributes"], names=ATTRIBUTES, templates=TEMPLATES)
    return found["attributes"]["t2r_r_precision"]


def without_regions(method: Any) -> None:
    """Leave whole images as the only units of the contrast."""
    assigned = method._assigned

    def changed(batch: Any) -> Mapping[str, Tensor]:
        found = assigned(batch)
        whole = torch.zeros_like(found["units"])
        whole[:, -1] = found["units"][:, -1]
        return {**found, "units": whole}

    method._assigned = changed


def at_random(method: Any) -> None:
    """Deal the cosines of a page's regions out anew among them, before attributes are assigned."""
    assigned = method._assigned
    cosines = method._cosines

    def changed(batch: Any) -> Mapping[str, Tensor]:
        there = batch.fields["regions_there"] > 0

        def dealt(regions: Tensor, chosen: Tensor) -> Tensor:
            found = cosines(regions, chosen)
            # padding stays behind
            order = (torch.rand(there.shape, device=there.device) + 2 * ~there).argsort(1)
            return found.gather(1, order[..., None].expand_as(found))

        method._cosines = dealt
        try:
            return assigned(batch)
        finally:
            method._cosines = cosines

    method._assigned = changed


def by_mean(method: Any) -> None:
    """Score an image by the mean of its regions in the loss of the mapping."""
    loss = method._mapping_loss
    cosines = method._cosines

    def changed(regions: Tensor, batch: Any) -> Any:
        there = batch.fields["regions_there"] > 0
        weight = there[there.any(1)].to(regions)[..., None]

        def mean(own: Tensor, chosen: Tensor) -> Tensor:
            found = cosines(own, chosen)
            return ((found * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)).expand_as(
                found
            )

        method._cosines = mean
        try:
            return loss(regions, batch)
        finally:
            method._cosines = cosines

    method._mapping_loss = changed


claim = Claim(
    question=(
        "Trained on images whose texts speak of many regions, with attributes mapped to regions first, a model finds "
        "the regions of attributes better than trained on whole images."
    ),
    prelude=begin,
    arms={
        "start": start,
        "whole": trained(without_regions, rate=RATES["whole"], complexities=COMPLEXITIES),
        "villa": trained(complexities=COMPLEXITIES),
        "random": trained(at_random),
        "mean": trained(by_mean),
        "every": trained(eps=2.0),
    },
    headline=(better("r16", "villa", over="whole"),),
    mechanism=("random", "mean", "every"),
    checks=(
        better("kept", "villa", over="whole"),
        better("r4", "villa", over="whole"),
        better("r16", "villa", over="start"),
        better("f1", "villa", over="mean"),
    ),
    delta=0.03,
    floor=Floor("r4", chance=CHANCE, arms=("whole", "villa")),
    table=("r16", "r4", "kept", "f1"),
)
