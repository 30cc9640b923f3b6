"""Detect objects in the images of a folder, or of any source, with a run trained on boxes.

The classes are those of its training, or those that you name. A box is given by its left, top, right
and bottom sides, in pixels of the image. With --masks the masks of the objects are written too, in
COCO's format, with a drawing of each image.
"""

from typing import Any

from diptych.cli._model import add_batch_size, add_device, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show_json, show_table
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "MODEL IMAGES [--names A,B,…] [--masks DIR] [options]"
EXAMPLES = (
    "diptych detect runs/cells smears/",
    "diptych detect runs/cells smear.png --score-threshold 0.3 --json",
    "diptych detect runs/instances photos/ --masks found/",
)
_SHOWN = 40  # boxes in the table


def add(parser: Parser) -> None:
    parser.option("What", "model", help="a RUN that was trained to detect")
    parser.option(
        "What",
        "images",
        help="images to search for objects: a folder, one image, 'shards/*.tar', a table, …",
    )
    parser.option(
        "What",
        "--names",
        metavar="A,B,…",
        help="classes to detect (default: those of its training)",
    )
    parser.option(
        "What",
        "--masks",
        metavar="DIR",
        help="new folder for masks of the objects and drawings, for a run that was trained on masks",
    )
    parser.option(
        "How",
        "--score-threshold",
        type=float,
        metavar="P",
        help="smallest score of a box (default: 0.1)",
    )
    parser.option(
        "How",
        "--nms-threshold",
        type=float,
        metavar="IOU",
        help="NMS: IoU above which the lower-scoring box of a class is dropped (default: 0.6)",
    )
    parser.option(
        "How",
        "--max-boxes",
        type=int,
        least=1,
        metavar="N",
        help="largest number of boxes per image (default: the model's)",
    )
    parser.renamed |= {"least": "score-threshold", "overlap": "nms-threshold", "most": "max-boxes"}
    add_batch_size(parser)
    parser.option("More", "--json", type=bool, help="print JSON, of all boxes, instead of a table")
    add_device(parser)


def run(args: Namespace) -> None:
    if not args.model:
        raise InputError("diptych detect has no model; name a RUN that was trained to detect")
    if not args.images:
        raise InputError(
            "diptych detect has no images; name a folder, an image, or any other source"
        )
    for name in ("score_threshold", "nms_threshold"):
        if name in args and not 0 <= args[name] <= 1:
            raise InputError(f"--{name.replace('_', '-')} is {args[name]:g}; it must be 0 to 1")
    from dataclasses import asdict

    from diptych.inference.detect import detect_images
    from diptych.methods.abilities import require

    model: Any = load_model(args.model, args)
    require(model, "detect", "diptych detect", args.model)
    if "names" in args:
        model.set_classes(args.names.split(","))
    settings = {
        "score_threshold": 0.1,
        **{
            name: args[name]
            for name in ("score_threshold", "nms_threshold", "max_boxes", "batch_size", "masks")
            if name in args
        },
    }
    with progress("detecting") as report:
        found, bad = detect_images(model, args.images, progress=report, **settings)
    if args.get("json"):
        reported = [asdict(each) for each in found]
        show_json(
            {"model": args.model, "names": list(model.classes), "boxes": reported, "bad": dict(bad)}
        )
    else:
        rows = [
            (each.image, each.name, each.score, *map(round, each.box)) for each in found[:_SHOWN]
        ]
        more = len(found) - len(rows)
        notes = [f"and {more:,} more boxes; --json tells all"] if more > 0 else []
        if "masks" in args:
            notes.append(f"{args.masks} holds instances.json and a drawing of each image")
        columns = ("image", "class", "score", "left", "top", "right", "bottom")
        show_table(f"{args.images} by {args.model}", columns, rows, "; ".join(notes))
    if bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in bad.items())
        say(
            f"left out, as they cannot be read: {reasons} (`diptych check {args.images}` tells which)"
        )
