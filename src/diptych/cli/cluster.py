"""Cluster records, each an image with a text, so that records of one entity are together.

Records within a distance of each other are joined, and so are chains of them (single linkage). Give
the distance with --distance, or choose it on records with known entities with --val, which also
chooses the weight of images unless --weight gives it.
"""

from diptych.cli._model import EMBEDDERS
from diptych.cli._parser import Namespace, Parser
from diptych.cli._records import add_options, check, left_out, linker, report
from diptych.cli._screen import progress
from diptych.errors import InputError
from diptych.spec import CosineDistance

GROUP = "Use a model"
USAGE = "MODEL RECORDS (--val SOURCE | --distance D) [options]"
EXAMPLES = (
    "diptych cluster runs/news photographs.csv --val checked.csv --out clusters.csv",
    "diptych cluster tiny photographs/ --distance 0.2 --json",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help=EMBEDDERS)
    parser.option("What", "records", help="records to cluster: a table, a folder, …")
    parser.option(
        "How",
        "--distance",
        type=float,
        within=CosineDistance,
        metavar="D",
        help="largest distance, 1 - cosine similarity, of two records that are joined",
    )
    add_options(parser)


def run(args: Namespace) -> None:
    check("cluster", args, "records")
    if ("val" in args) == ("distance" in args):
        raise InputError(
            "diptych cluster needs a distance: give it with --distance, or choose it with --val; one of them"
        )
    from diptych.data.sources import open_source
    from diptych.inference.link import as_rows

    records = open_source(args.records)
    made = linker(args, **({"distance": args.distance} if "distance" in args else {}))
    with progress("clustering") as made.progress:
        found = made.cluster(records)
    count = 1 + max(each.cluster for each in found)
    values = {"distance": made.distance, "weight": made.cluster_weight, "bad": dict(made.bad)}
    report(
        args,
        f"{len(found):,} records in {count:,} clusters{left_out(made.bad)}",
        as_rows(found),
        values,
    )
