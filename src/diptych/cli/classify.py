"""Classify the images or texts of a folder, or of any source, into classes that you name.

A class is represented by the mean embedding of its name in the templates; a run that was trained on
classes has prompts of its own. Without --names the classes are those of such a run, or else those of
the source: subfolders or named labels.
"""

from collections.abc import Mapping
from typing import Any

from diptych.cli._model import (
    EMBEDDERS,
    add_batch_size,
    add_device,
    add_exact,
    add_precision,
    add_share,
    add_space,
    add_weights,
    load_model,
)
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show_json, show_table
from diptych.errors import InputError, shortened

GROUP = "Use a model"
USAGE = "MODEL IMAGES|TEXTS [--names 'A,B,C' | --names FILE.txt] [options]"
EXAMPLES = (
    "diptych classify tiny images/ --names 'cat,dog,strawberry'",
    "diptych classify openclip:ViT-B-32/laion2b_s34b_b79k photos/ --names classes.txt --template 'a photo of a {}.'",
    "diptych classify runs/mine 'shards/*.tar' --names 'ripe,unripe' --json",
    "diptych classify runs/mine photos/ --route",
    "diptych classify runs/texts articles.txt --names 'music,sport'",
    "diptych classify runs/clim photos/ --boxes found.json --names 'ripe,unripe'",
)
_SHOWN = 40  # images in the table


def add(parser: Parser) -> None:
    parser.option("What", "model", help=EMBEDDERS)
    parser.option(
        "What",
        "images",
        help="images or texts to classify: a folder, one image, 'shards/*.tar', a table, texts.txt, …",
    )
    parser.option(
        "What",
        "--names",
        metavar="A,B,…|FILE",
        help="classes: a list of names, a file with one name per line, or a JSON file of sentences by "
        "class",
    )
    parser.option(
        "What",
        "--template",
        "--templates",
        action="append",
        metavar="SPEC",
        help="prompt templates: 'a {} | one {}', a bank, or a file (default: the bank images; for texts: "
        "the name alone); may be repeated",
    )
    parser.option(
        "What",
        "--label",
        metavar="LABEL",
        help="label of the source whose class names are used if --names is not given",
    )
    parser.option(
        "What",
        "--role",
        metavar="ROLE",
        help="role of the texts to classify (default: caption, or the first)",
    )
    parser.option(
        "How",
        "-k",
        type=int,
        least=1,
        dest="k",
        metavar="N",
        help="most likely classes to show for each image or text (default: 3)",
    )
    parser.option(
        "How",
        "--route",
        type=bool,
        help="also show the weights of the groups of prompts, for a run that mixes groups",
    )
    parser.option(
        "How",
        "--boxes",
        metavar="FILE",
        help="classify these boxes instead of whole images: JSON as printed by `diptych detect --json`",
    )
    parser.option(
        "How",
        "--fuse",
        metavar="A,B",
        help="with scored --boxes: combine detector and class scores; the latter weigh A for base and B "
        "for novel classes, from 0 to 1",
    )
    parser.option("How", "--novel", metavar="A,B,…", help="names of the novel classes for --fuse")
    parser.option(
        "How",
        "--size",
        type=int,
        least=1,
        metavar="PIXELS",
        help="with --boxes: side in pixels to which whole images are resized (default: the model's)",
    )
    add_batch_size(parser)
    add_exact(parser)
    parser.option("More", "--json", type=bool, help="print JSON, of all images, instead of tables")
    add_precision(parser)
    add_device(parser)
    add_share(parser)
    add_space(parser)
    add_weights(parser)


def run(args: Namespace) -> None:
    if not args.model:
        raise InputError(f"diptych classify has no model; name {EMBEDDERS}")
    if not args.images:
        raise InputError(
            "diptych classify has no images; name a folder, an image, or any other source"
        )
    if "boxes" in args:
        _name_boxes(args)
        return
    for name in ("fuse", "novel", "size"):
        if name in args:
            raise InputError(f"--{name} is about regions; name them with --boxes")
    from diptych.inference.classify import name_source

    model: Any = load_model(args.model, args)
    names = ("names", "templates", "label", "role", "k", "batch_size", "exact", "route")
    settings = {name: args[name] for name in names if name in args}
    with progress("naming") as report:
        found = name_source(model, args.images, progress=report, **settings)
    of_texts = bool(found[0].text)
    if args.get("json"):
        reported = [
            {
                "key": each.key,
                **({"text": each.text} if each.text else {"path": each.path}),
                "classes": [{"name": name, "probability": share} for name, share in each.classes],
                **(
                    {"groups": [{"name": name, "weight": share} for name, share in each.groups]}
                    if args.get("route")
                    else {}
                ),
            }
            for each in found
        ]
        show_json(
            {
                "model": args.model,
                "names": list(found.classes),
                "texts" if of_texts else "images": reported,
                "bad": dict(found.bad),
            }
        )
    else:
        _show(args, found, "texts" if of_texts else "images")
    _show_bad(args, found.bad)


def _show_bad(args: Namespace, bad: Mapping[str, int]) -> None:
    if bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in bad.items())
        say(
            f"left out, as they cannot be read: {reasons} (`diptych check {args.images}` tells which)"
        )


def _name_boxes(args: Namespace) -> None:
    """Name the boxes of a file."""
    from dataclasses import asdict

    from diptych.inference.regions import name_regions

    for name in ("role", "route"):
        if name in args:
            raise InputError(f"--{name} is not about regions; leave it out, or --boxes")
    fusion = _fusion(args)
    model: Any = load_model(args.model, args)
    names = ("names", "templates", "label", "k", "batch_size", "exact", "size")
    settings = {name: args[name] for name in names if name in args}
    with progress("naming regions") as report:
        found, bad = name_regions(
            model, args.images, args.boxes, fusion=fusion, progress=report, **settings
        )
    if args.get("json"):
        reported = [asdict(each) for each in found]
        for row, each in zip(reported, found, strict=True):
            row["classes"] = [{"name": name, "probability": share} for name, share in each.classes]
            if each.score is None:
                del row["name"], row["score"]
        show_json(
            {
                "model": args.model,
                "names": list(model.classes),
                "boxes": reported,
                "bad": dict(bad),
            }
        )
    else:
        rows = []
        for each in found[:_SHOWN]:
            own = each.classes[0] if each.score is None else (each.name, each.score)
            others = each.classes[1:] if each.score is None else each.classes
            then = ", ".join(f"{name} {share:.2f}" for name, share in others)
            rows.append((each.image, *own, then, *map(round, each.box)))
        heads = ("image", "class", "score" if fusion else "probability", "then")
        more = len(found) - len(rows)
        note = f"and {more:,} more boxes; --json tells all" if more > 0 else ""
        sides = ("left", "top", "right", "bottom")
        show_table(f"boxes of {args.images} by {args.model}", (*heads, *sides), rows, note)
    _show_bad(args, bad)


def _fusion(args: Namespace) -> Any:
    """Return how scores are combined, None if they are not."""
    from diptych.inference.regions import Fusion

    if "fuse" not in args:
        if "novel" in args:
            raise InputError("--novel is about the scores of --fuse; give --fuse A,B too")
        return None
    try:
        base, other = (float(part) for part in args.fuse.split(","))
    except ValueError:
        raise InputError(f"--fuse is {args.fuse!r}; give two weights, such as 0.1,0.8") from None
    return Fusion(base, other, tuple(args.get("novel", "").split(",") if "novel" in args else ()))


def _show(args: Namespace, found: Any, things: str) -> None:
    from diptych.inference.classify import counts

    rows = []
    for each in found[:_SHOWN]:
        name, share = each.classes[0]
        others, groups = (
            ", ".join(f"{other} {value:.2f}" for other, value in reported)
            for reported in (each.classes[1:], each.groups)
        )
        shown = shortened(each.text) if each.text else each.shown
        rows.append((shown, name, share, others, *[groups] * bool(groups)))
    more = len(found) - len(rows)
    note = f"and {more:,} more {things}; --json tells all" if more > 0 else ""
    heads = (things[:-1], "class", "probability", "then", *["groups"] * bool(args.get("route")))
    show_table(f"{args.images} by {args.model}", heads, rows, note)
    if len(found) > 1:
        print()
        given = counts(found)
        table = [
            (name, given.get(name, 0), given.get(name, 0) / len(found)) for name in found.classes
        ]
        show_table("classes", ("class", things, "share"), sorted(table, key=lambda row: -row[1]))
