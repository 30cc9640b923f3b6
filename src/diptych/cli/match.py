"""Score how well each text of a source fits its image, with a model that reads both together.

Scores rank the pairs; some models also give the probability that text and image belong together.
"""

from typing import Any

from diptych.cli._model import (
    add_batch_size,
    add_device,
    add_exact,
    add_precision,
    add_weights,
    load_model,
)
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show_json, show_table
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "MODEL PAIRS [--role ROLE] [options]"
EXAMPLES = (
    "diptych match runs/fused pairs.csv",
    "diptych match runs/fused photos/ --role caption --json",
)
_SHOWN = 40  # pairs in the table


def add(parser: Parser) -> None:
    parser.option(
        "What",
        "model",
        help="a RUN that was trained to match, BLIP-2 as hf:FOLDER, or diffusers:FOLDER",
    )
    parser.option("What", "pairs", help="images with texts: a table, a folder, …")
    parser.option(
        "What", "--role", metavar="ROLE", help="role of the texts (default: caption, or the first)"
    )
    add_batch_size(parser, "pairs")
    add_exact(parser)
    parser.option("More", "--json", type=bool, help="print JSON, of all pairs, instead of a table")
    add_precision(parser)
    add_weights(parser)
    add_device(parser)


def run(args: Namespace) -> None:
    for name, wanted in (("model", "a RUN"), ("pairs", "a table or another source of both")):
        if not args[name]:
            raise InputError(f"diptych match has no {name}; name {wanted}")
    from diptych.data.sources import open_source
    from diptych.inference.match import match_pairs
    from diptych.methods.abilities import require

    source = open_source(args.pairs)
    model: Any = load_model(args.model, args)
    require(model, "match", "diptych match", args.model)
    settings = {name: args[name] for name in ("role", "batch_size", "exact") if name in args}
    with progress("matching") as report:
        found, bad = match_pairs(model, source, progress=report, **settings)
    own = [
        {name: value for name, value in vars(pair).items() if value is not None} for pair in found
    ]
    if args.get("json"):
        show_json({"model": args.model, "pairs": own, "bad": dict(bad)})
        return
    more = len(own) - _SHOWN
    note = f"and {more:,} more; --json tells all" if more > 0 else ""
    rows = [tuple(pair.values()) for pair in own[:_SHOWN]]
    show_table(f"{args.pairs} by {args.model}", list(own[0]), rows, note)
    if bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in bad.items())
        say(f"left out, as they cannot be read: {reasons}")
