"""Evaluate a model on a source; each result has the id of its protocol.

Suites of texts alone read no image. Probes are trained on --train, or on four fifths of the data.
`diptych list suites` shows what each suite needs, docs/evaluation.md what it measures.
"""

from collections.abc import Mapping
from typing import Any

from diptych.cli import _suites
from diptych.cli._model import (
    MODELS,
    add_batch_size,
    add_device,
    add_exact,
    add_precision,
    add_share,
    add_space,
    add_weights,
    load_model,
)
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, show_json, show_table
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "MODEL --data SOURCE [--suite retrieval,zeroshot] [options]"
EXAMPLES = (
    "diptych evaluate runs/first --data glyphs:split=test",
    "diptych evaluate runs/first --data pets/ --suite zeroshot --json",
    "diptych evaluate runs/first --data glyphs:split=test --train glyphs --suite probe --label group",
)


def add(parser: Parser) -> None:
    from diptych.evaluation import cards

    parser.option("What", "model", help=MODELS)
    parser.option("What", "--data", metavar="SOURCE", help="test data")
    parser.option(
        "What",
        "--suite",
        metavar="NAME,…",
        help=f"suites to run (default: retrieval), of {', '.join(cards())}; or a FILE.py of your own",
    )
    parser.option(
        "What",
        "--role",
        metavar="ROLE",
        help="role of the texts (default: caption, or the first; pointing: long; affordance: verb)",
    )
    parser.option(
        "What", "--label", metavar="LABEL", help="label to predict (default: class, or the first)"
    )
    add_batch_size(parser)
    add_exact(parser)
    add_precision(parser)
    add_device(parser)
    add_share(parser)
    add_space(parser)
    _suites.add(parser)
    parser.option("More", "--json", type=bool, help="print JSON instead of tables")
    add_weights(parser)


def run(args: Namespace) -> None:
    if not args.model:
        raise InputError(f"diptych evaluate has no model; name {MODELS}")
    if "data" not in args:
        raise InputError("diptych evaluate has no data; name a source with --data")
    from diptych.data.sources import open_source
    from diptych.evaluation import evaluate

    suites = _suites.names(args.get("suite", "retrieval"))
    settings = _suites.settings(args)
    source = open_source(args.data)
    model = load_model(args.model, args)
    with progress("evaluating") as report:
        results = evaluate(model, source, suites, progress=report, **settings)
    if args.get("json"):
        show_json(results)
        return
    for number, (name, result) in enumerate(results.items()):
        if number:
            print()
        _show(name, result)


_COUNTS = {  # numbers above the table, and what they count
    "n": "",
    "gallery": "images",
    "texts": "texts",
    "n_train": "learnt from",
    "classes": "classes",
    "classes_seen": "classes with images",
    "exemplars": "exemplars",
    "known": "queries with an exemplar",
    "clusters": "clusters",
    "pairs": "pairs",
    "boxes": "boxes",
    "flagged": "flagged",
    "visual": "visual",
    "tokens": "tokens",
    "labels": "labels",
}
_OF = {  # what `n` counts where it is not images
    "answers": "questions",
    "dependency": "questions",
    "hallucination": "questions",
    "orderings": "pairs",
    "composed": "queries",
    "composition": "units",
    "continual": "tasks",
    "denoising": "pairs",
    "correspondence": "positions",
    "dense": "positions",
    "depth": "positions",
    "noisy_pairs": "pairs",
    "gap": "samples",
    "degeneration": "prompts",
    "continuation": "prompts",
    "isotropy": "texts",
    "perplexity": "texts",
    "hard_negatives": "wrong texts",
    "heatmaps": "phrases",
    "affordance": "images",
    "linkage": "queries",
    "reconstruction": "pairs",
    "masked_tokens": "masked tokens",
    "nli": "pairs",
    "clip_i": "drawings",
    "sts": "pairs",
    "text_labels": "texts",
    "text_retrieval": "queries",
    "typos": "pairs",
    "visualness": "texts",
}


def _show(suite: str, result: Mapping[str, Any]) -> None:
    """Show the numbers beside chance, and below them one table for each `by_NAME`."""
    rows = [
        (name, value, result.get(f"chance_{name}", ""))
        for name, value in result.items()
        if isinstance(value, int | float) and name not in _COUNTS and not name.startswith("chance_")
    ]
    words = _COUNTS | {"n": _OF.get(suite, "images")}
    counts = ", ".join(f"{result[name]:,} {words[name]}" for name in _COUNTS if name in result)
    damaged = "".join(f"; left out: {count} {reason}" for reason, count in result["bad"].items())
    tables = {
        name.removeprefix("by_"): table for name, table in result.items() if name.startswith("by_")
    }
    left_out = [f"{name}: {reason}" for name, reason in result.get("left_out", {}).items()]
    note = "\n".join(
        [
            *([f"left out: {'; '.join(left_out)}"] if left_out else []),
            f"protocol {result['protocol']}",
        ]
    )
    title = f"{suite} on {result['data']}: {counts}{damaged}"
    show_table(title, ("measure", "value", "chance"), rows, note="" if tables else note)
    for number, (name, table) in enumerate(tables.items(), 1):
        print()
        columns = list(dict.fromkeys(column for row in table.values() for column in row))
        lines = [
            (row, *(values.get(column, "") for column in columns)) for row, values in table.items()
        ]
        show_table(
            f"{suite} by {name}:",
            (name, *columns),
            lines,
            note=note if number == len(tables) else "",
        )
