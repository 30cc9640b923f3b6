"""Predict named numbers, such as the risk of an event, for the images or volumes of a source.

The predictions of several runs, such as one for each contrast phase, are averaged; --roles names the
image that each of them reads.
"""

from pathlib import Path
from typing import Any

from diptych.cli._model import (
    add_batch_size,
    add_device,
    add_exact,
    add_precision,
    add_weights,
    load_model,
)
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show_json, show_table
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "MODEL[,MODEL…] IMAGES [--roles ROLE,ROLE…] [options]"
EXAMPLES = (
    "diptych predict runs/risk volumes/",
    "diptych predict runs/risk scan.nii.gz --json",
    "diptych predict runs/arterial,runs/venous kidneys:split=test --roles arterial,venous",
)
_SHOWN = 40  # samples in the table


def add(parser: Parser) -> None:
    parser.option(
        "What",
        "model",
        help="a RUN that was trained to predict; several, separated by commas, are averaged",
    )
    parser.option("What", "images", help="images or volumes: a folder, one file, a table, …")
    parser.option(
        "What",
        "--roles",
        metavar="ROLE,…",
        help="role of the image that each run reads (default: main)",
    )
    add_batch_size(parser)
    add_exact(parser)
    parser.option(
        "More", "--json", type=bool, help="print JSON, of all samples, instead of a table"
    )
    add_precision(parser)
    add_weights(parser)
    add_device(parser)


def run(args: Namespace) -> None:
    for name, wanted in (("model", "a RUN"), ("images", "a folder, a file, or any other source")):
        if not args[name]:
            raise InputError(f"diptych predict has no {name}; name {wanted}")
    from diptych.data.images import is_image
    from diptych.data.sources import open_source
    from diptych.inference.predict import Predicted, predict
    from diptych.methods.abilities import require

    runs = args.model.split(",")
    models: list[Any] = [load_model(name, args) for name in runs]
    for name, model in zip(runs, models, strict=True):
        require(model, "predict", "diptych predict", name)
    settings = {name: args[name] for name in ("batch_size", "exact") if name in args}
    if is_image(args.images):
        if len(models) > 1:
            raise InputError("one file is one image; give one run, or a source with several roles")
        numbers = models[0].predict(args.images, exact=bool(args.get("exact")))
        key = Path(args.images).name
        found = [Predicted(key, {name: float(value[0]) for name, value in numbers.items()})]
        bad = {}
    else:
        source = open_source(args.images)
        roles = args.roles.split(",") if "roles" in args else ()
        with progress("predicting") as report:
            found, bad = predict(models, source, roles=roles, progress=report, **settings)
    if args.get("json"):
        samples = [{"key": each.key, **each.numbers} for each in found]
        show_json({"model": args.model, "samples": samples, "bad": dict(bad)})
        return
    names = list(found[0].numbers)
    rows = [(each.key, *(each.numbers[name] for name in names)) for each in found[:_SHOWN]]
    more = len(found) - len(rows)
    note = f"and {more:,} more; --json tells all" if more > 0 else ""
    show_table(f"{args.images} by {args.model}", ("sample", *names), rows, note)
    if bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in bad.items())
        say(f"left out, as they cannot be read: {reasons}")
