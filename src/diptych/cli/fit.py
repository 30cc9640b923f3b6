"""Fit a small network that predicts real-valued labels, such as indicators of places, from the frozen
embeddings of a model.

It is `diptych train regress`, whose other options it leaves at their defaults.
"""

import shlex

from diptych.cli._model import MODELS
from diptych.cli._parser import Namespace, Parser
from diptych.errors import InputError

GROUP = "Train"
USAGE = "MODEL SOURCE --target A,B,… --out RUN [options]"
EXAMPLES = (
    "diptych fit runs/urban tiles.csv --target carbon --out runs/carbon",
    "diptych fit tiny tiles:count=640 --out runs/indicators --val tiles:count=64:split=val",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help=MODELS)
    parser.option("What", "source", help="images with labels: a table, shards, tiles, …")
    parser.option(
        "What",
        "--target",
        metavar="A,B,…",
        help="the labels to predict (default: all with real values)",
    )
    parser.option("What", "--out", metavar="RUN", help="the folder to make")
    parser.option("What", "--val", metavar="SOURCE", help="measured after each epoch")
    parser.option("How", "--epochs", type=float, metavar="N", help="passes over the data (100)")
    parser.option("How", "--seed", type=int, metavar="N", help="of the network's weights (0)")
    parser.option("How", "--quiet", type=bool, help="no progress")


def run(args: Namespace) -> None:
    wanted = {
        "model": "a model to predict from",
        "source": "images with labels",
        "out": "a folder with --out RUN",
    }
    for name, what in wanted.items():
        if not args.get(name):
            raise InputError(f"diptych fit has no {name}; name {what}")
    from diptych.front.training import train

    settings = {name: args[name] for name in ("val", "epochs", "seed", "quiet") if name in args}
    config = {"labels": args.target} if "target" in args else {}
    train("regress", args.source, args.out, init=args.model, config=config, **settings)
    out = shlex.quote(args.out)
    print(f"{args.out} holds the network; use it with: diptych predict {out} IMAGES")
