"""Segment the images of a folder, or of any source, into classes that you name.

Each pixel gets the class whose name, averaged over its prompts, is most similar to the image there. A
run that was trained to segment uses its own head and classes. With --out a label map of each image is
written: a PNG whose pixels are the numbers of classes.
"""

from typing import Any

from diptych.cli._model import (
    EMBEDDERS,
    add_batch_size,
    add_device,
    add_exact,
    add_precision,
    add_space,
    add_weights,
    load_model,
)
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show_json, show_table
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "MODEL IMAGES [--names A,B,…] [--route values | --whole] [--out DIR] [options]"
EXAMPLES = (
    "diptych segment runs/tips photos/ --names 'dog,grass,sky' --route values --out maps/",
    "diptych segment openclip:ViT-B-16/laion2b_s34b_b88k photo.jpg --names classes.txt --route values --json",
    "diptych segment runs/cocu photos/ --names 'dog,grass,background' --background 0.9 --whole --out maps/",
)
_SHOWN = 40  # images in the table


def add(parser: Parser) -> None:
    parser.option("What", "model", help=EMBEDDERS)
    parser.option(
        "What", "images", help="images to segment: a folder, one image, 'shards/*.tar', a table, …"
    )
    parser.option(
        "What",
        "--names",
        metavar="A,B,…|FILE",
        help="classes: a list of names, or a file with one name per line (default: those that a run was "
        "trained on)",
    )
    parser.option(
        "What",
        "--template",
        "--templates",
        action="append",
        metavar="SPEC",
        help="prompt templates: 'a {} | one {}', a bank, or a file (default: the bank images); may be "
        "repeated",
    )
    parser.option("What", "--out", metavar="DIR", help="new folder for label maps and their legend")
    parser.option(
        "How",
        "--route",
        metavar="NAME",
        help="features of positions: tokens (default), or values, without attention in a ViT's last block "
        "(MaskCLIP)",
    )
    parser.option(
        "How",
        "--whole",
        type=bool,
        help="segment all of each image by sliding windows, with a run that was trained to segment",
    )
    parser.option(
        "How",
        "--background",
        type=float,
        metavar="X",
        help="score below which a pixel is of the class background, for runs that group patches (default: "
        "the run's)",
    )
    add_batch_size(parser)
    add_exact(parser)
    parser.option("More", "--json", type=bool, help="print JSON, of all images, instead of a table")
    add_precision(parser)
    add_device(parser)
    add_space(parser)
    add_weights(parser)


def run(args: Namespace) -> None:
    for name, wanted in (
        ("model", EMBEDDERS),
        ("images", "a folder, an image, or any other source"),
    ):
        if not args[name]:
            raise InputError(f"diptych segment has no {name}; name {wanted}")
    from diptych.inference.segment import segment_source

    model: Any = load_model(args.model, args)
    names = ("templates", "route", "whole", "background", "out", "batch_size", "exact")
    settings = {name: args[name] for name in names if name in args}
    with progress("segmenting") as report:
        found = segment_source(model, args.images, args.get("names"), progress=report, **settings)
    if args.get("json"):
        reported = [
            {
                "image": each.image,
                **({"file": each.file} if each.file else {}),
                "shares": dict(each.shares),
            }
            for each in found
        ]
        bad = dict(found.bad)
        show_json(
            {"model": args.model, "names": list(found.classes), "images": reported, "bad": bad}
        )
    else:
        _show(args, found)
    if found.bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.bad.items())
        say(
            f"left out, as they cannot be read: {reasons} (`diptych check {args.images}` tells which)"
        )


def _show(args: Namespace, found: Any) -> None:
    rows = []
    for each in found[:_SHOWN]:
        (name, share), *others = each.shares
        rest = ", ".join(f"{other} {value:.2f}" for other, value in others if value > 0)
        rows.append((each.image, name, share, rest))
    more = len(found) - len(rows)
    notes = [f"and {more:,} more images; --json tells all"] if more > 0 else []
    if "out" in args:
        notes.append(f"{args.out} holds the label maps and legend.json")
    columns = ("image", "largest", "share", "then")
    show_table(f"{args.images} by {args.model}", columns, rows, "; ".join(notes))
