"""Train a small model on included drawings, test it and search with it; makes an HTML page.

Takes about four minutes on two cores.
"""

import shlex
from pathlib import Path
from typing import Any

from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import say, show_table

GROUP = "Begin here"
USAGE = "[--out DIR] [--seed N]"
EXAMPLES = ("diptych demo", "diptych demo --out /tmp/demo --seed 1")


def add(parser: Parser) -> None:
    parser.option(
        "Options",
        "--out",
        metavar="DIR",
        help="folder for report.html, the model and the embeddings (default: demo)",
    )
    parser.option("Options", "--seed", type=int, metavar="N", help="random seed (default: 0)")


def run(args: Namespace) -> None:
    from diptych.embeddings.query import embed_and_query
    from diptych.lab.demo import run_demo

    out = Path(args.get("out", "demo"))
    metrics = run_demo(out, seed=args.get("seed", 0), search=embed_and_query, progress=say)
    show_table(
        "Recall at 5, name to image", ("test", "reached", "bar", "pixel look-up"), _rows(metrics)
    )
    print(f"{out / 'report.html'} is the page; {out / 'run'} the model")
    print(
        f"search the drawings in your browser: diptych serve {shlex.quote(str(out / 'embeddings'))}"
    )


def _rows(metrics: dict[str, Any]) -> list[tuple[Any, ...]]:
    from diptych.lab.demo.trial import TARGETS

    tests = {**metrics["unseen_design"], "concepts": metrics["unseen_concepts"]}
    return [
        (name, test["t2i_r5"], TARGETS[name], test.get("pixel_lookup_r5", ""))
        for name, test in tests.items()
    ]
