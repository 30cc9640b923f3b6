"""`diptych demo`: train CLIP on drawings of everyday objects, test it on an unseen design and
unseen concepts, and search.

Three tests, each over names and images, where the only correct image of a name is its own:

    unseen_design.plain    the images of a design kept out of training, on white
    unseen_design.placed   the same, shrunk by 1/s, s uniform in [1, 1.8], anywhere on a 64 px canvas of a random colour
    unseen_concepts        concepts kept out of training, drawn by the first training design

The baseline to beat is a look-up without learning: the gallery images that are nearest in 16 x 16
pixels to a training drawing of the name. On white it is strong, since designs draw many objects
alike; placement removes this advantage.

Recipes are chosen on `CHOICE`, which holds out another design and other concepts, so that `FINAL`
stays unseen.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.lab.demo.page import Found, Queries, compose
from diptych.lab.demo.trial import CHOICE, FINAL, Trial, measure
from diptych.methods.store import load
from diptych.models.model import Model
from diptych.training import config as training_config
from diptych.training.run import run as train_run

__all__ = ["CHOICE", "FINAL", "Trial", "run_demo"]

HITS = 8

Search = Callable[[Model, str, Path, Sequence[str | Image.Image], int], Sequence[Sequence[Found]]]
"""`search(model, source, folder, queries, k)`: embed a source into a folder, then answer texts and
images."""

Train = Callable[[str, Path, int], None]
"""`train(source, run, seed)`: write a trained model and its metrics.jsonl to the folder `run`."""


def run_demo(
    out: str | Path,
    *,
    seed: int = 0,
    search: Search,
    progress: Callable[[str], None] = lambda line: None,
    train: Train | None = None,
    trial: Trial = FINAL,
) -> dict[str, Any]:
    """Train, test and search; write OUT/report.html and OUT/metrics.json and return the metrics.

    OUT also contains the run (OUT/run) and the embeddings (OUT/embeddings). An earlier demo there
    is replaced; other files raise an InputError. `progress` receives a line as each part begins.
    """
    out = Path(out)
    _make_room(out)
    progress(f"training clip on the drawings of {', '.join(trial.designs)}")
    begun = time.perf_counter()
    (train or train_clip)(trial.spec(trial.learnt, *trial.designs), out / "run", seed)
    seconds = time.perf_counter() - begun
    model = load(out / "run")
    losses = read_losses(out / "run" / "metrics.jsonl")
    progress(f"testing on {trial.held_out} and on concepts it never saw")
    metrics = {
        **measure(model, trial, seed),
        "seconds_train": round(seconds, 1),
        "steps": len(losses),
        "seed": seed,
    }
    progress("embedding and searching")
    queries = Queries.draw(trial, seed)
    found = search(
        model,
        trial.spec(trial.learnt, trial.held_out),
        out / "embeddings",
        queries.asked(trial),
        HITS,
    )
    html = compose(trial, metrics, losses, queries, found)
    write_atomic(
        out / "metrics.json",
        lambda path: path.write_text(json.dumps(metrics, indent=1) + "\n", "utf-8"),
    )
    write_atomic(out / "report.html", lambda path: path.write_text(html, "utf-8"))
    return metrics


def _make_room(out: Path) -> None:
    mark = out / ".diptych-demo"
    if out.exists() and not mark.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds other files; name a new or empty folder with --out")
    for name in ("run", "embeddings"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    mark.touch()


def train_clip(source: str, run: Path, seed: int) -> None:
    """Train the preset `small` of `clip`. A batch has at most one drawing of each concept, because
    drawings of the same concept would be negatives of each other.

    Most captions are a name with one to three tags, which relate concepts to each other.
    """
    role = "caption=0.4,caption+tags=0.2,caption+tags+tags=0.2,caption+tags+tags+tags=0.2"
    config = {"distinct": "concept", "role": role}
    settings = training_config.resolve(
        "clip", {"train": source}, config=config, options={"seed": seed}
    )
    train_run(settings, run)


def read_losses(path: Path) -> list[tuple[float, float]]:
    """Return (step, loss) of every step in a metrics.jsonl."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [(line["done"], float(line["loss"])) for line in lines if "loss" in line]
