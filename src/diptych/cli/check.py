"""Check a source before training on it: damage, duplicates, captions, leakage, cost.

Every sample is read once; nothing is changed.
"""

from diptych.cli._model import add_engine
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, show_json, show_table
from diptych.errors import InputError

GROUP = "Begin here"
USAGE = "SOURCE [--val SOURCE] [options]"
EXAMPLES = (
    "diptych check 'shards/{0000..0099}.tar' --val val.tar",
    "diptych check pairs.csv --batch-size 1024 --json",
)


def add(parser: Parser) -> None:
    parser.option(
        "What", "source", help="data to check: a folder, 'shards/*.tar', a table, glyphs, …"
    )
    parser.option(
        "What",
        "--val",
        metavar="SOURCE",
        help="validation data; also report samples that SOURCE shares with it",
    )
    parser.option(
        "How",
        "--method",
        metavar="NAME",
        help="method whose memory use and training time are estimated (default: clip)",
    )
    parser.option(
        "How",
        "--preset",
        metavar="NAME",
        help="preset that is estimated: small (default), paper, usually tune, and others: see the method's "
        "page",
    )
    parser.option(
        "How",
        "--batch-size",
        type=int,
        least=1,
        metavar="N",
        help="batch size for false negatives (default: 256) and for the estimate (default: the preset's)",
    )
    parser.option(
        "How",
        "--chunk",
        type=int,
        least=1,
        metavar="N",
        help="estimate with gradient caching, N tokens encoded at once (default: off)",
    )
    parser.option(
        "How",
        "--size",
        type=int,
        least=1,
        metavar="N",
        help="side of training images in pixels (default: 224)",
    )
    parser.option(
        "How",
        "--tokenizer",
        metavar="SPEC",
        help="tokenizer for token counts (default: bpe, trained on the texts)",
    )
    parser.option(
        "How",
        "--workers",
        type=int,
        least=0,
        metavar="N",
        help="processes that read the data (default: 0, the main process)",
    )
    add_engine(parser)
    parser.option("More", "--json", type=bool, help="print JSON instead of a table")


def run(args: Namespace) -> None:
    if not args.source:
        raise InputError(
            "diptych check has no data; name a source, such as photos/, pairs.csv or 'shards/*.tar'"
        )
    from diptych.front.checking import check

    names = (
        "val",
        "method",
        "preset",
        "batch_size",
        "chunk",
        "size",
        "tokenizer",
        "workers",
        "engine",
    )
    settings = {name: args[name] for name in names if name in args}
    with progress("checking") as report:
        found = check(args.source, progress=report, **settings)
    if args.get("json"):
        show_json(found.to_dict())
    else:
        show_table(found.title, ("what", "found", "such as"), found.rows())
