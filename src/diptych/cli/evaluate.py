"""Measure a model on a source, each number with the id of its protocol."""

from typing import Any

from diptych.cli._model import MODELS, add_precision, add_weights, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, show_json, show_table
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "MODEL --data SOURCE [--suite retrieval,zeroshot] [options]"
EXAMPLES = (
    "diptych evaluate runs/first --data glyphs:split=test",
    "diptych evaluate runs/first --data pets/ --suite zeroshot --json",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help=MODELS)
    parser.option("What", "--data", metavar="SOURCE", help="what to measure on")
    parser.option("What", "--suite", metavar="NAME,…", help="retrieval (the default), zeroshot")
    parser.option("How", "--role", help="role of the texts for retrieval (default: caption)")
    parser.option("How", "--label", help="label for zeroshot (default: the first with class names)")
    parser.option("How", "--batch-size", type=int, metavar="N", help="pictures at once (default: 64)")
    parser.option("How", "--exact", type=bool, help="decode every JPEG in full, however large")
    parser.option("More", "--json", type=bool, help="JSON in place of tables")
    add_precision(parser)
    add_weights(parser)


def run(args: Namespace) -> None:
    if not args.model:
        raise InputError(f"diptych evaluate has no model; name {MODELS}")
    if "data" not in args:
        raise InputError("diptych evaluate has no data; name a source with --data")
    from diptych.data.sources import open_source
    from diptych.evaluation import evaluate

    suites = [name for name in args.get("suite", "retrieval").split(",") if name]
    settings = {name: args[name] for name in ("role", "label", "batch_size", "exact") if name in args}
    if settings.get("batch_size", 1) < 1:
        raise InputError(f"--batch-size is {settings['batch_size']}; it must be at least 1")
    source = open_source(args.data)
    model = load_model(args.model, args.get("weights"), args.get("precision", "float32"))
    with progress("evaluating") as report:
        results = evaluate(model, source, suites, progress=report, **settings)
    if args.get("json"):
        show_json(results)
        return
    for name, result in results.items():
        _show(name, result)


_TOLD = ("n", "texts", "classes", "classes_seen")  # counts, which stand above the table


def _show(suite: str, result: dict[str, Any]) -> None:
    rows = [
        (name, value, result.get(f"chance_{name}", ""))
        for name, value in result.items()
        if isinstance(value, int | float) and name not in _TOLD and not name.startswith("chance_")
    ]
    counts = ", ".join(f"{result[name]:,} {_word(name)}" for name in _TOLD if name in result)
    damaged = "".join(f"; left out: {count} {reason}" for reason, count in result["bad"].items())
    title = f"{suite} on {result['data']}: {counts}{damaged}"
    show_table(title, ("measure", "value", "chance"), rows, note=f"protocol {result['protocol']}")


def _word(name: str) -> str:
    return {"n": "pictures", "classes_seen": "classes with pictures"}.get(name, name)
