"""`diptych data contrast`: pairs of images that differ in a detail, each with what is true of it."""

from pathlib import Path
from typing import Any

from diptych.cli._describe import asked, read_prompt
from diptych.cli._model import EMBEDDERS, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, show_table
from diptych.cli._world import open_world
from diptych.errors import InputError

OPTIONS = (
    *("model", "differs", "above", "below", "only", "flips", "of", "by", "prompt", "tries"),
    *("role", "count", "seed", "device"),
)


def add(parser: Parser) -> None:
    """Add the options of its own."""
    parser.option(
        "How",
        "--differs",
        metavar="MODEL",
        help=f"model by which the images of a pair must differ, with --model: {EMBEDDERS}",
    )
    parser.option(
        "How",
        "--above",
        type=float,
        metavar="X",
        help="smallest cosine of the images of a pair by --model (default: 0.7)",
    )
    parser.option(
        "How",
        "--below",
        type=float,
        metavar="X",
        help="largest cosine of the images of a pair by --differs (default: 0.5)",
    )
    parser.option("How", "--only", metavar="KIND+KIND", help="kinds of edits to use (default: all)")
    parser.option(
        "How",
        "--flips",
        type=int,
        least=0,
        metavar="N",
        help="mirrored images to add, for each value of --of, of samples that say left or right (default: "
        "0)",
    )


def run(args: Namespace, out: Path) -> None:
    """Write the pairs of a source, and show what was left out."""
    if out.suffix:
        raise InputError(f"{out}: pairs are a folder of images and a list; give a folder")
    if ("model" in args) != ("differs" in args):
        raise InputError(
            f"pairs are compared by two models; give --model and --differs, {EMBEDDERS}, or neither"
        )
    for name in ("above", "below"):
        if name in args and "model" not in args:
            raise InputError(f"--{name} is a cosine by a model; give --model and --differs too")
    for name in ("prompt", "tries"):
        if name in args and "by" not in args:
            raise InputError(f"--{name} is for a writer; name one with --by")
    if "of" in args and not args.get("flips"):
        raise InputError("--of gives the categories of flips; say how many with --flips")
    from diptych.data.sources import mvc, open_source
    from diptych.data.worlds import cards
    from diptych.methods.fuse.s_vco.contrast import contrast
    from diptych.spec import parse

    world = parse(args.world).name in cards()
    if not world and "count" in args:
        raise InputError(f"--count goes with a world; {args.world} is taken as a whole")
    source = open_world(args) if world else open_source(args.world)
    options: dict[str, Any] = {
        name: args[name]
        for name in ("above", "below", "flips", "role", "tries", "seed")
        if name in args
    }
    if "only" in args:
        options["kinds"] = args.only.split("+")
    if "of" in args:
        options["category"] = args.of
    if "prompt" in args:
        options["prompt"] = read_prompt(args.prompt)
    if "by" in args:
        options["writer"] = _writer(args)
    if "model" in args:
        options["similar"] = load_model(args.model, args)
        options["differs"] = load_model(args.differs, args)
    with progress("contrasting") as report:
        found = contrast(source, out, progress=report, **options)
    rows = [
        ("pairs of edits", f"{found.pairs:,}"),
        ("flips", f"{found.flips:,}"),
        *((f"left out: {reason}", f"{count:,}") for reason, count in found.dropped.items()),
        ("pairs written", f"{found.written:,}"),
    ]
    show_table(f"{args.world}: {len(source):,} samples", ("what", "number"), rows)
    path = out / mvc.FILE
    print(
        f"{path} lists them; train with: diptych train s_vco --init RUN --data {path} --out TUNED"
    )


def _writer(args: Namespace) -> Any:
    """Return the writer that --by names, which reads texts alone."""
    writer = asked(args.by, args)
    if getattr(writer, "reads_images", False):
        raise InputError(
            f"--by {args.by} writes about images, and texts are rewritten by a language model; name one, or cmd:PROGRAM"
        )
    return writer
