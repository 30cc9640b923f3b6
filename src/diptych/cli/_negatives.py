"""`diptych data negatives`: samples with wrong captions and edits, as lists."""

from pathlib import Path

from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, show_table
from diptych.cli._world import open_world
from diptych.errors import InputError

OPTIONS = ("kinds", "each", "count", "seed", "role")


def add(parser: Parser) -> None:
    """Add the options of its own."""
    parser.option(
        "How",
        "--kinds",
        metavar="KIND+KIND",
        help="negatives: edits (the source's own), rule, retrieval, random, or all",
    )


def run(args: Namespace, out: Path) -> None:
    """Write the samples of a source with negatives, and show how many there are of each kind."""
    from collections import Counter

    from diptych.data.sources import mm_math_align, open_source
    from diptych.data.worlds import cards
    from diptych.methods.pretrain.mmgeolm.negatives import WithNegatives
    from diptych.spec import parse

    if "kinds" not in args:
        raise InputError(
            "diptych data negatives has no kinds to make; give --kinds, such as edits+rule+retrieval"
        )
    world = parse(args.world).name in cards()
    if not world and "count" in args:
        raise InputError(f"--count goes with a world; {args.world} is taken as a whole")
    source = WithNegatives(
        open_world(args) if world else open_source(args.world),
        kinds=args.kinds,
        count=args.get("each", 10),
        role=args.get("role", "caption"),
        seed=args.get("seed", 0),
    )
    with progress("writing") as report:
        written = mm_math_align.write(source, out, role=source.role, progress=report)
    path = out / mm_math_align.FILE
    counts = Counter(edit.kind for sample in open_source(str(path)) for edit in sample.edits)
    rows = [(kind, f"{count:,}", f"{count / written:.1f}") for kind, count in counts.items()]
    show_table(f"{args.world}: {written:,} samples", ("kind", "negatives", "a sample"), rows)
    print(f"{path} lists them; train with: diptych train mmgeolm --data {path} --out RUN")
