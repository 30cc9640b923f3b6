"""Fill each [MASK] of a text with the most likely words, with a model trained on masked words.

A mask stands for one token of the model's vocabulary, which is a whole word where the word is common.
"""

from typing import Any

from diptych.cli._model import add_device, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import show_json, show_table
from diptych.errors import InputError
from diptych.methods.abilities import require

GROUP = "Use a model"
USAGE = "MODEL 'a text with a [MASK]' [options]"
EXAMPLES = (
    "diptych fill runs/reports 'small [MASK] at the left base'",
    "diptych fill runs/reports 'no evidence of [MASK]' --count 10 --json",
)
_COUNT = 5


def add(parser: Parser) -> None:
    parser.option("What", "model", help="a RUN that was trained to predict masked words")
    parser.option("What", "text", help="text with [MASK] in place of words, in quotes")
    parser.option(
        "How",
        "--count",
        type=int,
        least=1,
        metavar="N",
        help=f"number of words for each mask (default: {_COUNT})",
    )
    parser.option("More", "--json", type=bool, help="print JSON instead of a table")
    add_device(parser)


def run(args: Namespace) -> None:
    for name, wanted in (("model", "a RUN"), ("text", "a text with [MASK]")):
        if not args[name]:
            raise InputError(f"diptych fill has no {name}; name {wanted}")
    model: Any = load_model(args.model, args)
    require(model, "fill", "filling in words", args.model)
    [found] = model.fill([args.text], k=args.get("count", _COUNT))
    if args.get("json"):
        masks = [[{"word": word, "probability": share} for word, share in each] for each in found]
        show_json({"model": args.model, "text": args.text, "masks": masks})
        return
    rows = [
        (str(number), word, f"{share:.3f}")
        for number, each in enumerate(found, 1)
        for word, share in each
    ]
    show_table(args.text, ("mask", "word", "probability"), rows)
