"""Link records, images with a text each, to the records of a list that they belong to.

Each query gets its nearest target, by the embedding of image and text together. Below a similarity
it gets none: give it with --threshold, or choose it on records with entities, with --val.
"""

from diptych.cli._model import MODELS
from diptych.cli._parser import Namespace, Parser
from diptych.cli._records import add_options, check, left_out, linker, report
from diptych.cli._screen import progress
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "MODEL TARGETS QUERIES [--val SOURCE | --threshold T] [options]"
EXAMPLES = (
    "diptych link runs/firms list.csv scans.csv --out links.csv",
    "diptych link runs/firms list.csv scans.csv --val checked.csv --label firm",
    "diptych link tiny targets/ queries/ --threshold 0.8 --json",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help=MODELS)
    parser.option("What", "targets", help="the records that are linked to: a table, a folder, …")
    parser.option("What", "queries", help="the records to link")
    parser.option(
        "How", "--threshold", type=float, metavar="T", help="the least similarity of a link"
    )
    add_options(parser)


def run(args: Namespace) -> None:
    check("link", args, "targets", "queries")
    if "val" in args and "threshold" in args:
        raise InputError("--val chooses the threshold that --threshold gives; leave one out")
    from diptych.data.sources import open_source
    from diptych.inference.link import as_rows

    targets = open_source(args.targets)
    queries = open_source(args.queries)
    made = linker(args, **({"threshold": args.threshold} if "threshold" in args else {}))
    with progress("linking") as made.progress:
        made.index(targets)
        found = made.link(queries)
    linked = sum(each.target is not None for each in found)
    title = (
        f"{linked:,} of {len(found):,} records are linked to {len(targets):,}{left_out(made.bad)}"
    )
    values = {"threshold": made.threshold, "weight": made.link_weight, "bad": dict(made.bad)}
    report(args, title, as_rows(found), values)
