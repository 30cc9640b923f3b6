"""`diptych data vary`: variations of images, with their captions."""

from pathlib import Path
from typing import Any

from diptych.cli._describe import asked
from diptych.cli._model import EMBEDDERS, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, show_table
from diptych.cli._world import open_world
from diptych.errors import InputError

OPTIONS = ("model", "count", "seed", "by", "portrayals", "variations", "steps", "side", "device")


def add(parser: Parser) -> None:
    """Add the options of its own."""
    parser.option(
        "How",
        "--portrayals",
        metavar="FILE|WRITER",
        help="with --by: what is painted in the place of which object, a .json file, or the writer that is "
        "asked: hf-lm:FOLDER, cmd:PROGRAM or a RUN that generates",
    )
    parser.option(
        "How",
        "--variations",
        type=int,
        least=2,
        metavar="N",
        help="variations of each object (default: 4)",
    )
    parser.option(
        "How",
        "--steps",
        type=int,
        least=1,
        metavar="N",
        help="with --by: denoising steps (default: 100)",
    )
    parser.option(
        "How",
        "--side",
        type=int,
        least=8,
        metavar="N",
        help="with --by: side of the painted crop in pixels (default: 512)",
    )


def run(args: Namespace, out: Path) -> None:
    """Write the variations of a source, and show what was left out."""
    from diptych.data.sources import open_source
    from diptych.data.worlds import cards
    from diptych.methods.robust.generative_negatives.generators import (
        Inpainting,
        WorldVariations,
    )
    from diptych.methods.robust.generative_negatives.vary import FILE, vary
    from diptych.spec import parse

    if out.suffix:
        raise InputError(f"{out}: variations are a folder of images and a table; give a folder")
    if "model" not in args:
        raise InputError(
            f"diptych data vary has no model to score captions by; name {EMBEDDERS} with --model"
        )
    if ("by" in args) != ("portrayals" in args):
        raise InputError("--by and --portrayals go together: a pipeline, and what it paints")
    world = parse(args.world).name in cards()
    source = open_world(args) if world else open_source(args.world)
    if not world and "count" in args:
        raise InputError(f"--count goes with a world; {args.world} is varied as a whole")
    options = {name: args[name] for name in ("seed", "steps", "side", "device") if name in args}
    generator: Any
    if "by" in args:
        portrayals = _portrayals(args, source, out)
        generator = Inpainting(args.by, portrayals, source.schema(), **options)
    else:
        for name in ("steps", "side", "device"):
            if name in options:
                raise InputError(f"--{name} is of a diffusion model; name one with --by")
        generator = WorldVariations(source)
    model = load_model(args.model, args)
    with progress("varying") as report:
        found = vary(
            source, generator, model, out, count=args.get("variations", 4), progress=report
        )
    rows = [
        ("variations", f"{found.variations:,}"),
        ("groups", f"{found.groups:,}"),
        *((f"left out: {reason}", f"{count:,}") for reason, count in sorted(found.dropped.items())),
    ]
    show_table(f"{args.world}: {len(source):,} samples", ("what", "number"), rows)
    print(
        f"{out / FILE} lists them; train with: diptych train generative_negatives "
        f"--data train={out / FILE} --data pairs=SOURCE --out RUN"
    )


def _portrayals(args: Namespace, source: Any, out: Path) -> Any:
    """Return what to paint, of a file or asked of a writer, whose answers are kept beside the
    images."""
    from diptych.methods.robust.generative_negatives.generators import (
        asked_portrayals,
        read_portrayals,
    )

    if args.portrayals.endswith(".json"):
        return read_portrayals(Path(args.portrayals))
    writer = asked(args.portrayals, args)
    with progress("asking") as report:
        return asked_portrayals(
            source,
            writer,
            out / "portrayals.jsonl",
            count=args.get("variations", 4),
            progress=report,
        )
