"""`diptych data negatives`: samples with wrong captions and edits, as lists."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        help="kinds of negatives: edits (the source's own), rule, retrieval, random, or all",
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
    found = [Counter(edit.kind for edit in sample.edits) for sample in open_source(str(path))]
    rows = _rows(sum(found, Counter()), source, written)
    columns = ("kind", "negatives", "a sample", "asked")
    show_table(f"{args.world}: {written:,} samples", columns, rows)
    if "rule" in source.kinds and (bare := sum(not each["rule"] for each in found)):
        print(
            f"{bare:,} captions hold nothing that a rule changes (shapes, names in capital letters, numbers, relations)"
        )
    if left := len(source) - written:
        print(
            f"{left:,} samples have no caption or no negatives, or cannot be read, and are left out"
        )
    print(f"{path} lists them; train with: diptych train mmgeolm --data {path} --out RUN")


def _rows(counts: Mapping[str, int], source: Any, written: int) -> list[tuple[str, ...]]:
    """Return a row for each kind that was asked for or found; edits of the source have kinds of
    their own, of which no number is asked."""
    made = [kind for kind in source.kinds if kind != "edits"]
    asked = f"{source.count * len(source):,}"
    return [
        (kind, f"{counts[kind]:,}", f"{counts[kind] / written:.1f}", asked if kind in made else "")
        for kind in dict.fromkeys([*counts, *made])
    ]
