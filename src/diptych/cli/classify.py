"""Name the images of a folder, or of any source, by classes that you name.

A class is the mean direction of its name in the templates; a run that was trained on classes has
prompts of its own. Without --names they are the classes of such a run, else those that the images
bring along: subfolders, named labels.
"""

import os
from pathlib import Path
from typing import Any

from diptych.cli._model import (
    MODELS,
    add_precision,
    add_share,
    add_space,
    add_weights,
    load_model,
)
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show_json, show_table
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "MODEL IMAGES [--names 'A,B,C' | --names FILE.txt] [options]"
EXAMPLES = (
    "diptych classify tiny images/ --names 'cat,dog,strawberry'",
    "diptych classify openclip:ViT-B-32/laion2b_s34b_b79k photos/ --names classes.txt --template 'a photo of a {}.'",
    "diptych classify runs/mine 'shards/*.tar' --names 'ripe,unripe' --json",
    "diptych classify runs/mine photos/ --route",
)
_SHOWN = 40  # images in the table


def add(parser: Parser) -> None:
    parser.option("What", "model", help=MODELS)
    parser.option("What", "images", help="a folder, one image, 'shards/*.tar', a table, …")
    parser.option(
        "What",
        "--names",
        metavar="A,B,…|FILE",
        help="the classes: names, a file with one a line, or a JSON file of sentences by class",
    )
    parser.option(
        "What",
        "--template",
        "--templates",
        action="append",
        metavar="SPEC",
        help="prompts around a name: 'a {} | one {}', a bank, or a file (default: images)",
    )
    parser.option(
        "What",
        "--label",
        metavar="LABEL",
        help="whose class names to take where --names is not given",
    )
    parser.option(
        "How",
        "-k",
        type=int,
        least=1,
        dest="k",
        metavar="N",
        help="how many classes to tell of each (default: 3)",
    )
    parser.option(
        "How",
        "--route",
        type=bool,
        help="show which groups of prompts were mixed, for a run that has them",
    )
    parser.option(
        "How", "--batch-size", type=int, least=1, metavar="N", help="images at once (default: 64)"
    )
    parser.option("How", "--exact", type=bool, help="decode large JPEG files in full")
    parser.option("More", "--json", type=bool, help="JSON, of all images, in place of tables")
    add_precision(parser)
    add_share(parser)
    add_space(parser)
    add_weights(parser)


def run(args: Namespace) -> None:
    if not args.model:
        raise InputError(f"diptych classify has no model; name {MODELS}")
    if not args.images:
        raise InputError(
            "diptych classify has no images; name a folder, an image, or any other source"
        )
    from diptych.data.images import is_image
    from diptych.data.sources import open_source
    from diptych.data.templates import templates
    from diptych.inference.classify import Named, likeliest, name_images, set_sentences
    from diptych.methods.abilities import require

    source = None if is_image(args.images) else open_source(args.images)
    model: Any = load_model(
        args.model,
        args.get("weights"),
        args.get("precision", "float32"),
        args.get("share"),
        args.get("space"),
    )
    require(model, "class_logits", "diptych classify", args.model)
    route = bool(args.get("route"))
    if route:
        require(model, "route", "--route", args.model)
    own = () if model.classes else ("images",)  # a run with trained classes has its prompts
    if args.get("names", "").lower().endswith(".json"):
        if "templates" in args:
            raise InputError(f"{args.names} has whole sentences; leave out --template")
        set_sentences(model, args.names)
    else:
        prompts = [template for spec in args.get("templates", own) for template in templates(spec)]
        model.set_classes(_names(args, model, source), prompts)
    if source is None:
        logits = model.class_logits(args.images, exact=bool(args.get("exact")))
        [classes] = likeliest(logits, model.classes, args.get("k", 3))
        [groups] = model.route(args.images, exact=bool(args.get("exact"))) if route else [()]
        found = [Named(Path(args.images).name, args.images, classes, groups)]
        bad = {}
    else:
        settings = {name: args[name] for name in ("k", "batch_size", "exact") if name in args}
        with progress("naming") as report:
            found, bad = name_images(model, source, route=route, progress=report, **settings)
    if args.get("json"):
        reported = [
            {
                "key": each.key,
                "path": each.path,
                "classes": [{"name": name, "probability": share} for name, share in each.classes],
                **(
                    {"groups": [{"name": name, "weight": share} for name, share in each.groups]}
                    if route
                    else {}
                ),
            }
            for each in found
        ]
        show_json(
            {
                "model": args.model,
                "names": list(model.classes),
                "images": reported,
                "bad": dict(bad),
            }
        )
    else:
        _show(args, model, found)
    if bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in bad.items())
        say(
            f"left out, as they cannot be read: {reasons} (`diptych check {args.images}` tells which)"
        )


def _names(args: Namespace, model: Any, source: Any) -> list[str]:
    """Return the requested classes, else those that the model was trained on, else those of the
    images."""
    if "names" not in args and model.classes and "label" not in args:
        return list(model.classes)
    if "names" not in args and source is None:
        raise InputError("no class is named; give --names 'A,B,C', or a file with one a line")
    if "names" not in args:
        from diptych.evaluation.suites.zeroshot import named_label

        try:
            return list(
                source.schema()[
                    f"labels.{named_label('classify', source, args.get('label'))}"
                ].classes
            )
        except InputError as error:
            raise InputError(
                f"no class is named; give --names 'A,B,C', or a file with one a line ({error})"
            ) from None
    path = Path(args.names).expanduser()
    if os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises for long texts)
        return [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    if path.suffix == ".txt":
        raise InputError(f"--names {args.names}: there is no such file; check the path")
    return args.names.split(",")


def _show(args: Namespace, model: Any, found: list[Any]) -> None:
    from diptych.inference.classify import counts

    rows = []
    for each in found[:_SHOWN]:
        name, share = each.classes[0]
        others, groups = (
            ", ".join(f"{other} {value:.2f}" for other, value in reported)
            for reported in (each.classes[1:], each.groups)
        )
        rows.append((each.path or each.key, name, share, others, *[groups] * bool(groups)))
    more = len(found) - len(rows)
    note = f"and {more:,} more images; --json tells all" if more > 0 else ""
    heads = ("image", "class", "probability", "then", *["groups"] * bool(args.get("route")))
    show_table(f"{args.images} by {args.model}", heads, rows, note)
    if len(found) > 1:
        print()
        given = counts(found)
        table = [
            (name, given.get(name, 0), given.get(name, 0) / len(found)) for name in model.classes
        ]
        show_table("classes", ("class", "images", "share"), sorted(table, key=lambda row: -row[1]))
