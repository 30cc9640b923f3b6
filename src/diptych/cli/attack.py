"""Measure how often a trained perturbation of images and texts makes models fail.

The model is a RUN of one perturbation for all images and one word to insert (`diptych train c_pgc`).
It was trained against one model; --victim names others, to measure how far it transfers. Use it on
models of your own. With --out the perturbed images and texts are written as tar shards, to train or
evaluate on.
"""

from typing import Any, Literal

from diptych.cli._model import add_batch_size, add_device, add_exact, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, show, show_json, show_table
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "MODEL --data SOURCE [--victim MODEL,…] [options]"
EXAMPLES = (
    "diptych attack runs/change --data photos/",
    "diptych attack runs/change --data photos/ --victim runs/mine,runs/hardened --json",
    "diptych attack runs/change --data photos/ --victim runs/fused --rerank 32",
    "diptych attack runs/change --data vqa.json --victim runs/answers --task answers",
    "diptych attack runs/change --data photos/ --out changed/",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help="a RUN that holds a perturbation, such as one of c_pgc")
    parser.option("What", "--data", metavar="SOURCE", help="images with texts to perturb")
    parser.option(
        "What",
        "--victim",
        metavar="MODEL,…",
        help="models to attack (default: the model that the perturbation was trained against)",
    )
    parser.option(
        "What",
        "--task",
        type=Literal["retrieval", "captions", "answers"],
        metavar="NAME",
        help="task of the victims: retrieval (default), captions or answers",
    )
    parser.option(
        "What", "--role", metavar="ROLE", help="role of the texts (default: caption, or the first)"
    )
    parser.option(
        "What",
        "--rerank",
        type=int,
        least=1,
        metavar="N",
        help="retrieval: also rerank the first N results of each query by the victim's matching score",
    )
    parser.option(
        "What",
        "--out",
        metavar="DIR",
        help="write the perturbed data to DIR as tar shards, and measure nothing",
    )
    add_batch_size(parser)
    add_exact(parser)
    parser.option("More", "--json", type=bool, help="print JSON instead of a table")
    add_device(parser)


def run(args: Namespace) -> None:
    if not args.model:
        raise InputError(
            "diptych attack has no model; name a RUN that holds a change (`diptych train c_pgc`)"
        )
    if "data" not in args:
        raise InputError("diptych attack has no data; name a source with --data")
    if "out" in args and (loose := [name for name in ("victim", "task", "rerank") if name in args]):
        raise InputError(
            f"--{loose[0]} is of measuring, and --out writes the changed data; leave one out"
        )
    from diptych.data.sources import open_source
    from diptych.methods.abilities import require

    source = open_source(args.data)
    model = load_model(args.model, args)
    require(model, "apply", "diptych attack", args.model)
    if "out" in args:
        _write(args, model, source)
        return
    from diptych.evaluation import check, evaluate

    settings: dict[str, Any] = {
        name: args[name]
        for name in ("task", "role", "rerank", "batch_size", "exact")
        if name in args
    }
    names = [name for name in args.get("victim", "").split(",") if name] or [args.model]
    victims = {name: model if name == args.model else load_model(name, args) for name in names}
    for victim in victims.values():
        check(model, source, ["attack"], victim=victim, **settings)
    results = {}
    for name, victim in victims.items():
        with progress(f"attacking {name}") as report:
            found = evaluate(model, source, ["attack"], progress=report, victim=victim, **settings)
        results[name] = found["attack"]
    if args.get("json"):
        show_json(results)
        return
    _show(args, results)


def _show(args: Namespace, results: dict[str, dict[str, Any]]) -> None:
    first = next(iter(results.values()))
    rows: list[tuple[Any, ...]] = []
    if "by_changed" in first:
        columns = ("victim", "changed", *first["by_changed"]["both"])
        for name, result in results.items():
            rows += [
                (name, what, *values.values()) for what, values in result["by_changed"].items()
            ]
    else:
        kept = [key for key, value in first.items() if isinstance(value, float)]
        columns = ("victim", *kept)
        rows = [(name, *(result[key] for key in kept)) for name, result in results.items()]
    count = f"{first['n']:,} {'questions' if first['field'] == 'answer' else 'images'}"
    title = f"what {args.model} makes wrong of what was right, on {first['data']}: {count}"
    note = "; ".join(f"{name}: protocol {result['protocol']}" for name, result in results.items())
    show_table(title, columns, rows, note)


def _write(args: Namespace, model: Any, source: Any) -> None:
    from diptych.data.shards import write_shards
    from diptych.evaluation.suites.retrieval import role_of
    from diptych.inference.apply import Applied

    role = role_of("diptych attack", source, args.get("role"))
    changed = Applied(source, model, model.preprocess, role, args.get("exact", False))
    with progress("writing") as report:
        paths = write_shards(changed, args.out, progress=report)
    show(f"{len(changed):,} changed samples in {len(paths)} shards of {args.out}")
