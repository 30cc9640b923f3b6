"""Train the models that are to ship and store them in the package: `tiny`, `tiny-lm` (a language
model), and `tiny-vlm`, which is made of both.

    torchrun --nproc_per_node 2 tools/make_tiny.py [tiny] [tiny-lm] [tiny-vlm] [--out build/tiny]

A run that was stopped goes on where it was. Each ends with the scores, the files in
src/diptych/models/pretrained/NAME (weights in float16) and the card there, README.md. `make tiny`
calls it, with one rank a core: on a CPU two processes of one thread are faster than one of two.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diptych
from diptych import collectives
from diptych.errors import InputError
from diptych.lab import tiny, tiny_lm, tiny_vlm
from diptych.methods import store
from diptych.training.engine import Interrupted
from diptych.training.launch import make_accelerator

SHIPPED = Path(diptych.__file__).parent / "models" / "pretrained"
RECIPES = {"tiny": tiny, "tiny-lm": tiny_lm, "tiny-vlm": tiny_vlm}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="tiny, tiny-lm, tiny-vlm (default: all)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/tiny"),
        help="where the runs lie (default: build/tiny)",
    )
    words = parser.parse_args()
    for name in words.names or RECIPES:
        if name not in RECIPES:
            sys.exit(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
        make(name, words.out / name)


def make(name: str, out: Path) -> None:
    """Train on all ranks; the first then measures and stores."""
    recipe = RECIPES[name]
    make_accelerator()  # opens the process group: all ranks must agree on what is there
    runs = recipe.train(out)
    if collectives.rank() == 0:
        _store(recipe, name, runs)
    collectives.barrier()


def _store(recipe: Any, name: str, runs: Sequence[Path]) -> None:
    """Ship the last run's model, with a card that tells of all of them."""
    folder = SHIPPED / name
    reported = [store.read_description(run) for run in runs]
    description = {key: value for key, value in reported[-1].items() if key != "weights"}
    state = store.load_file(runs[-1] / "model.safetensors")
    description, state = store.without_lent(description, state, getattr(recipe, "LENT", {}))
    store.save_model(folder, description, state, half=True)
    model = store.load(name)  # what is measured is what ships
    found = recipe.scores(model)
    seconds = sum(
        step["seconds"] for run in runs for step in _last_of_each_start(run / "metrics.jsonl")
    )
    card = recipe.card(model, found, [each["training"] for each in reported], seconds)
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(recipe.table(found))
    print(f"{folder} holds the weights and the card; {seconds / 60:.0f} minutes of training in all")


def _last_of_each_start(path: Path) -> list[dict[str, Any]]:
    """Of every start of a run, the last logged step: its clock counts from that start."""
    last: list[dict[str, Any]] = []
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        if line.get("event") == "start":
            last.append({"seconds": 0.0})
        elif "seconds" in line:
            last[-1] = line
    return last


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"make_tiny: {error}")
    except Interrupted as stopped:
        sys.exit(str(stopped))
