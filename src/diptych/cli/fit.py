"""Fit a small network that predicts real-valued labels, such as indicators of places, from the frozen
embeddings of a model.

This is `diptych train regress` with its other options at their defaults.
"""

import shlex

from diptych.cli._model import EMBEDDERS
from diptych.cli._parser import Namespace, Parser
from diptych.errors import InputError

GROUP = "Train"
USAGE = "MODEL SOURCE --out RUN [--target A,B,…] [options]"
EXAMPLES = (
    "diptych fit runs/urban tiles.csv --target carbon --out runs/carbon",
    "diptych fit tiny tiles:count=640 --out runs/indicators --val tiles:count=64:split=val",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help=EMBEDDERS)
    parser.option("What", "source", help="images with labels: a table, shards, tiles, …")
    parser.option(
        "What",
        "--target",
        metavar="A,B,…",
        help="labels to predict (default: all with real values)",
    )
    parser.option("What", "--out", metavar="RUN", help="folder of the run")
    parser.option(
        "What", "--val", metavar="SOURCE", help="validation data, evaluated after each epoch"
    )
    parser.option(
        "How", "--epochs", type=float, metavar="N", help="passes over the data (default: 100)"
    )
    parser.option("How", "--seed", type=int, metavar="N", help="random seed (default: 0)")
    parser.option(
        "How",
        "--resume",
        type=bool,
        help="continue the run in --out from its last checkpoint, with the same words beside",
    )
    parser.option("How", "--quiet", type=bool, help="hide progress")


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

    names = ("val", "epochs", "seed", "resume", "quiet")
    settings = {name: args[name] for name in names if name in args}
    config = {"labels": args.target} if "target" in args else {}
    train("regress", args.source, args.out, init=args.model, config=config, **settings)
    out = shlex.quote(args.out)
    print(f"{args.out} holds the network; use it with: diptych predict {out} IMAGES")
