"""`diptych data curate`: of a pool, the images that are nearest to others."""

from pathlib import Path
from typing import Any

from diptych.cli._documents import check_list
from diptych.cli._model import EMBEDDERS, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, show_table
from diptych.errors import InputError

OPTIONS = ("model", "queries", "k", "drop_near", "device")


def add(parser: Parser) -> None:
    """Add the options of its own."""
    parser.option(
        "How",
        "--queries",
        metavar="SOURCE",
        action="append",
        help="images whose nearest neighbours are kept; may be repeated",
    )
    parser.option(
        "How",
        "--k",
        type=int,
        least=1,
        metavar="N",
        help="nearest images of the pool that each query keeps (default: 8)",
    )
    parser.option(
        "How",
        "--drop-near",
        metavar="SOURCE",
        action="append",
        help="test data, whose images and those that look alike are dropped; may be repeated",
    )


def run(args: Namespace, out: Path) -> None:
    """Write the list of what is kept of a pool, and show how much is left out."""
    check_list(out)
    for name, what in (
        ("queries", "images to look for; name them with --queries SOURCE"),
        ("model", f"model to compare with; name {EMBEDDERS} with --model"),
    ):
        if name not in args:
            raise InputError(f"diptych data curate has no {what}")
    from diptych.data.sources import open_source
    from diptych.embeddings.curate import curate, write

    pool = open_source(args.world)
    queries = [open_source(spec) for spec in args.queries]
    tests = [open_source(spec) for spec in args.get("drop_near", ())]
    model: Any = load_model(args.model, args)
    with progress("comparing") as report:
        found = curate(pool, model, queries, k=args.get("k", 8), drop_near=tests, progress=report)
    write(out, args.world, pool, found)
    rows = []
    for number, what in enumerate(
        ("near to no query", "looks like a test image", "cannot be read", "kept")
    ):
        count = int((found == (-1 if what == "kept" else number)).sum())
        rows.append((what, f"{count:,}", f"{count / len(found):.1%}"))
    show_table(f"{args.world}: {len(found):,} images", ("what", "images", "of all"), rows)
    print(f"{out} lists what is kept; read it as filtered:{out}")
