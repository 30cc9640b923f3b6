"""`diptych data rewrite`: the concepts that an image shows beside those that its caption names."""

from pathlib import Path
from typing import Any

from diptych.cli._documents import check_table
from diptych.cli._model import EMBEDDERS, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show_table
from diptych.errors import InputError

OPTIONS = ("model", "gallery", "index", "k", "role", "seed", "device")


def add(parser: Parser) -> None:
    """Add the options of its own."""
    parser.option(
        "How",
        "--gallery",
        metavar="A,B,…|FILE",
        help="concepts to look for in captions: a list, or a file with one per line",
    )
    parser.option(
        "How",
        "--index",
        metavar="SOURCE",
        help="images with captions among which similar ones are looked for (default: SOURCE)",
    )


def run(args: Namespace, out: Path) -> None:
    """Write the concepts of a source, and show how many there are."""
    check_table(out, "the concepts")
    for name, what in (
        ("gallery", "concepts to look for; name them with --gallery names.txt"),
        ("model", f"model to compare with; name {EMBEDDERS} with --model"),
    ):
        if name not in args:
            raise InputError(f"diptych data rewrite has no {what}")
    from diptych.data.sources import open_source
    from diptych.methods.dense.cocu.rewrite import rewrite
    from diptych.models.class_names import read_names

    names = read_names(args.gallery, "--gallery")
    source = open_source(args.world)
    options: dict[str, Any] = {name: args[name] for name in ("role", "seed") if name in args}
    if "index" in args:
        options["index"] = open_source(args.index)
    if "k" in args:
        options["neighbours"] = args.k
    model: Any = load_model(args.model, args)
    with progress("comparing") as report:
        found = rewrite(source, args.world, model, names, out, progress=report, **options)
    mean = found.concepts / max(1, found.rewritten)
    rows = [
        ("with concepts", f"{found.rewritten:,}"),
        ("concepts of each, on average", f"{mean:.1f}"),
        *((f"cannot be read: {reason}", f"{count:,}") for reason, count in found.bad.most_common()),
    ]
    show_table(f"{args.world}: {found.samples:,} samples", ("what", "number"), rows)
    if found.rewritten < found.samples:
        say(f"{found.samples - found.rewritten:,} samples keep their caption alone")
    print(f"{out} holds them; train with: diptych train cocu --data rewritten:{out} --out RUN")
