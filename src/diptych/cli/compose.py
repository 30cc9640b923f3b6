"""Find pictures by a picture and words on what should be different in it.

PICTURES are read anew each time. The model is a run that was trained to compose; any other finds pictures by the sum of
both with `diptych search EMB --image REFERENCE WORDS`.
"""

from dataclasses import asdict

from diptych.cli._model import able_methods, add_precision, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show_json, show_table
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "RUN PICTURES REFERENCE 'make it blue' [options]"
EXAMPLES = (
    "diptych compose runs/sprc photos/ red-house.jpg 'the same at night'",
    "diptych compose runs/sprc 'shards/*.tar' dress.png 'is longer and has no sleeves' -k 20 --json",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help="a RUN that was trained to compose")
    parser.option("What", "pictures", help="where to look: a folder, 'shards/*.tar', a table, …")
    parser.option("What", "reference", help="the picture to start from, a file")
    parser.option("What", "instruction", help="what should be different, in words")
    parser.option("How", "-k", type=int, least=1, dest="k", metavar="N", help="how many to show (default: 10)")
    parser.option("How", "--batch-size", type=int, least=1, metavar="N", help="pictures at once (default: 64)")
    parser.option("How", "--exact", type=bool, help="decode large JPEG files in full")
    parser.option("More", "--json", type=bool, help="JSON in place of a table")
    add_precision(parser)


def run(args: Namespace) -> None:
    for name, wanted in (
        ("model", "a RUN that was trained to compose"),
        ("pictures", "a folder or any other source"),
        ("reference", "the picture to start from"),
        ("instruction", "what should be different, in quotes"),
    ):
        if not args[name]:
            raise InputError(f"diptych compose has no {name}; name {wanted}")
    from diptych.data.sources import open_source
    from diptych.search.compose import compose

    source = open_source(args.pictures)
    model = load_model(args.model, None, args.get("precision", "float32"))
    if not hasattr(model, "compose"):
        raise InputError(f"{args.model} does not compose; train a model that does with {able_methods('compose')}")
    settings = {name: args[name] for name in ("k", "batch_size", "exact") if name in args}
    with progress("looking") as report:
        found, bad = compose(model, source, args.reference, args.instruction, progress=report, **settings)
    if args.get("json"):
        show_json({"pictures": [asdict(each) for each in found], "bad": dict(bad)})
    else:
        rows = [(each.rank, each.score, each.path or each.key) for each in found]
        title = f"{args.reference}, “{args.instruction}”, in {len(source):,} pictures"
        show_table(title, ("#", "score", "picture"), rows)
    if bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in bad.items())
        say(f"left out, as they cannot be read: {reasons} (`diptych check {args.pictures}` tells which)")
