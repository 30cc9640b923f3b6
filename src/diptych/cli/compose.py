"""Find images by a reference image and a text that says what should be different in it.

IMAGES are embedded anew each time. The model is a run that was trained to compose; with any other
model `diptych search EMB --image REFERENCE WORDS` finds images by the sum of both embeddings.
"""

from dataclasses import asdict

from diptych.cli._model import add_batch_size, add_device, add_exact, add_precision, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show_json, show_table
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "MODEL IMAGES REFERENCE 'make it blue' [options]"
EXAMPLES = (
    "diptych compose runs/sprc photos/ red-house.jpg 'the same at night'",
    "diptych compose runs/sprc 'shards/*.tar' dress.png 'is longer and has no sleeves' -k 20 --json",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help="a RUN that was trained to compose, such as one of sprc")
    parser.option("What", "images", help="images to search: a folder, 'shards/*.tar', a table, …")
    parser.option("What", "reference", help="image to start from, a file")
    parser.option("What", "instruction", help="text that says what should be different, in quotes")
    parser.option(
        "How",
        "-k",
        type=int,
        least=1,
        dest="k",
        metavar="N",
        help="number of results (default: 10)",
    )
    add_batch_size(parser)
    add_exact(parser)
    parser.option("More", "--json", type=bool, help="print JSON instead of a table")
    add_precision(parser)
    add_device(parser)


def run(args: Namespace) -> None:
    for name, wanted in (
        ("model", "a RUN that was trained to compose"),
        ("images", "a folder or any other source"),
        ("reference", "the image to start from"),
        ("instruction", "what should be different, in quotes"),
    ):
        if not args[name]:
            raise InputError(f"diptych compose has no {name}; name {wanted}")
    from diptych.data.sources import open_source
    from diptych.embeddings.compose import compose
    from diptych.methods.abilities import require

    source = open_source(args.images)
    model = load_model(args.model, args)
    require(model, "compose", "diptych compose", args.model)
    settings = {name: args[name] for name in ("k", "batch_size", "exact") if name in args}
    with progress("looking") as report:
        found, bad = compose(
            model, source, args.reference, args.instruction, progress=report, **settings
        )
    if args.get("json"):
        show_json({"images": [asdict(each) for each in found], "bad": dict(bad)})
    else:
        rows = [(each.rank, each.score, each.path or each.key) for each in found]
        title = f"{args.reference}, “{args.instruction}”, in {len(source):,} images"
        show_table(title, ("#", "score", "image"), rows)
    if bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in bad.items())
        say(
            f"left out, as they cannot be read: {reasons} (`diptych check {args.images}` tells which)"
        )
