"""Search for an optimizer's update rule that trains a method better than tuned AdamW.

Programs evolve from AdamW on short runs of the method; the best are then trained on larger tasks, and
the winner is simplified and written to DIR/best.py, which `diptych train --optimizer FILE` uses. A
task is a method with options, as in clip:scale=20, or the config.yaml of a run. A search that was
stopped continues with the same command and --resume; a larger --evaluations extends it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diptych.cli._parser import Namespace, Parser
from diptych.cli._recipe import add_more, add_recipe
from diptych.cli._screen import progress, say, show_json, show_table
from diptych.errors import InputError

if TYPE_CHECKING:
    from diptych.training.config import RunConfig

GROUP = "Train"
USAGE = "METHOD|CONFIG.yaml --data SOURCE --val SOURCE --out DIR [options]"
EXAMPLES = (
    "diptych discover clip --data glyphs --val glyphs:split=val --out runs/rule",
    "diptych discover siglip --data a.tar --val b.tar --steps 200 --evaluations 2000 --funnel 4x1,20x2 --out runs/rule",
    "diptych discover runs/first/config.yaml --data a.tar --val b.tar --search random --out runs/random",
    "diptych train clip --optimizer runs/rule/best.py --data a.tar --out runs/second",
)
_STEPS = 100


def add(parser: Parser) -> None:
    parser.option(
        "Task",
        "name",
        metavar="METHOD",
        help="method of `diptych list`, with options; or the config.yaml of a run",
    )
    parser.option("Task", "--data", metavar="SOURCE", help="training data")
    parser.option(
        "Task",
        "--val",
        metavar="SOURCE",
        help="held-out data on which the search measures the loss",
    )
    parser.option(
        "Task",
        "--test",
        metavar="SOURCE",
        help="held-out data on which the larger tasks measure the loss (default: --val)",
    )
    parser.option(
        "Task",
        "--steps",
        type=int,
        least=4,
        metavar="N",
        help=f"steps of each training run of the search (default: {_STEPS})",
    )
    same = "Towers and recipe of the task (default: its preset's)"
    parser.option(
        same, "--image-tower", metavar="SPEC", help="image tower, such as vit:width=192:depth=4"
    )
    parser.option(
        same, "--text-tower", metavar="SPEC", help="text tower, such as text:width=192:depth=4"
    )
    parser.option(
        same, "--tokenizer", metavar="SPEC", help="tokenizer, such as bpe:vocab_size=4096"
    )
    parser.option(same, "--embed-dim", type=int, metavar="N", help="embedding dimension")
    add_recipe(parser, same)
    add_more(parser, same)
    parser.option(
        "Search",
        "--evaluations",
        type=int,
        least=2,
        metavar="N",
        help="number of programs to train (default: 600)",
    )
    parser.option(
        "Search",
        "--search",
        dest="kind",
        type=Literal["evolution", "random"],
        metavar="evolution|random",
        help="evolution (default), or random: random changes of AdamW without selection",
    )
    parser.option(
        "Search", "--seed", type=int, metavar="N", help="random seed of the search (default: 0)"
    )
    parser.option(
        "Search",
        "--population",
        type=int,
        least=2,
        metavar="N",
        help="programs in the population, of which the oldest is replaced (default: 20)",
    )
    parser.option(
        "Search",
        "--patience",
        type=int,
        least=1,
        metavar="N",
        help="evaluations without a better program before the population restarts (default: 100)",
    )
    parser.option(
        "Search",
        "--funnel",
        metavar="STEPSxWIDTH,…",
        help="larger tasks for the best programs, as multiples of --steps and of the towers' widths "
        "(default: 3x1,10x1.5)",
    )
    parser.option("Search", "--out", metavar="DIR", help="folder of the search")
    parser.option("Search", "--resume", type=bool, help="continue the search in DIR")
    parser.option("More", "--json", type=bool, help="print JSON instead of a table")


def run(args: Namespace) -> int:
    for name, why in (
        ("name", "has no task; name a method of `diptych list`, or a CONFIG.yaml"),
        ("data", "has no data; name a source to train on with --data"),
        ("val", "has no held-out data; name another source with --val"),
        ("out", "has no place to write to; name a folder with --out DIR"),
    ):
        if not args.get(name):
            raise InputError(f"diptych discover {why}")
    from diptych.lab.discover import FUNNEL, discover, sizes
    from diptych.lab.discover.evolve import Settings
    from diptych.spec import configure
    from diptych.training.engine import Interrupted

    given = {name: args[name] for name in Settings.__dataclass_fields__ if name in args}
    settings = configure(Settings, given, "discover")
    out = Path(args.out).expanduser()
    try:
        found = discover(
            _task(args),
            out,
            held=args.val,
            test=args.get("test"),
            settings=settings,
            sizes=sizes(args.funnel) if "funnel" in args else FUNNEL,
            resume=bool(args.get("resume")),
            progress=progress,
        )
    except (Interrupted, KeyboardInterrupt) as stop:
        say("stopped; every finished run is kept, and the same command with --resume goes on")
        return 130 if isinstance(stop, KeyboardInterrupt) else 0
    if args.get("json"):
        show_json(found.rows)
        return 0
    columns = [name for name in found.rows[0] if name != "text"]
    rows = [["" if row[name] is None else row[name] for name in columns] for row in found.rows]
    show_table(found.title, columns, rows)
    print(
        f"\n{found.path} is the program. Next:\n  diptych train {args.name} --optimizer {found.path} …"
    )
    return 0


def _task(args: Namespace) -> "RunConfig":
    """Return the run of the proxy: the preset `small` of a method, or a run's config, with what is
    given. Weights are not averaged, as over few steps that delivers the start."""
    from diptych.methods.base import Recipe
    from diptych.methods.registry import method_class
    from diptych.spec import parse
    from diptych.training.config import read, resolve

    tree: dict[str, Any] = {}
    if args.name.endswith((".yaml", ".yml")):
        path = Path(args.name).expanduser()
        if not path.is_file():
            raise InputError(f"{args.name}: there is no such file; check the path")
        tree = read(path)
        if not isinstance(tree.get("method"), str) or tree.get("init"):
            raise InputError(
                f"{args.name} must have a method that trains from scratch; write its name as `method`"
            )
        method = tree["method"]
        if method.endswith(".py"):  # a config file must not choose code to run
            raise InputError(f"{args.name} is of the method in {method}; name that file itself")
        options = tree.get("config", {})
    else:
        spec = parse(args.name)
        method = spec.name
        options = spec.options
    if method_class(method).adapts:
        raise InputError(
            f"{method} adapts a trained model, and a search trains from scratch; name another method, such as clip"
        )
    recipe = {key: value for key, value in options.items() if key in Recipe.__dataclass_fields__}
    recipe = {**tree.get("recipe", {}), **recipe, **args.get("recipe", Namespace()).as_dict()}
    names = ("image_tower", "text_tower", "tokenizer", "embed_dim")
    towers = {name: args.get(name, tree.get(name)) or None for name in names}
    return resolve(
        method,
        {"train": args.data},
        preset=tree.get("preset", "small"),
        image_tower=towers["image_tower"],
        text_tower=towers["text_tower"],
        tokenizer=towers["tokenizer"],
        embed_dim=towers["embed_dim"],
        config={key: value for key, value in options.items() if key not in recipe},
        recipe={"ema": None, **recipe, "steps": args.get("steps", _STEPS)},
        options={"quiet": True},
    )
