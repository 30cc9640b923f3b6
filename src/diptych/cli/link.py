"""Link records, each an image with a text, to the records of a list that they belong to.

Each query is linked to its nearest target, by the joint embedding of image and text. Below a
threshold of similarity it is not linked: give it with --threshold, or choose it on records with known
entities with --val.
"""

from diptych.cli._model import EMBEDDERS
from diptych.cli._parser import Namespace, Parser
from diptych.cli._records import add_options, check, left_out, linker, report
from diptych.cli._screen import progress
from diptych.errors import InputError
from diptych.spec import Cosine

GROUP = "Use a model"
USAGE = "MODEL TARGETS QUERIES [--val SOURCE | --threshold T] [options]"
EXAMPLES = (
    "diptych link runs/firms list.csv scans.csv --out links.csv",
    "diptych link runs/firms list.csv scans.csv --val checked.csv --label firm",
    "diptych link tiny targets/ queries/ --threshold 0.8 --json",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help=EMBEDDERS)
    parser.option("What", "targets", help="records to link to: a table, a folder, …")
    parser.option("What", "queries", help="records to link")
    parser.option(
        "How",
        "--threshold",
        type=float,
        within=Cosine,
        metavar="T",
        help="smallest cosine similarity of a link (default: none, every query is linked)",
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
