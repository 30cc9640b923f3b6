"""Write a model in the format of another library, and check that it embeds alike.

The other library reads what was written and embeds the same images and texts; the folder appears
only when no number of its unit vectors is off by more than 1e-5.
"""

from diptych.cli._model import MODELS, add_weights
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import say
from diptych.errors import InputError, unknown

GROUP = "Use a model"
USAGE = "MODEL --to onnx|openclip|hf|sentence-transformers --out DIR"
EXAMPLES = (
    "diptych export runs/first --to onnx --out first-onnx",
    "diptych export openclip:ViT-B-32/laion2b_s34b_b79k --to hf --out clip-hf",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help=MODELS)
    parser.option(
        "What", "--to", metavar="TARGET", help="onnx, openclip, hf or sentence-transformers"
    )
    parser.option("What", "--out", metavar="DIR", help="the folder to make")
    add_weights(parser)


def run(args: Namespace) -> None:
    if not args.model:
        raise InputError(f"diptych export has no model; write diptych export {USAGE}")
    for name, what in (("to", "a target"), ("out", "a new folder")):
        if name not in args:
            raise InputError(f"diptych export lacks --{name}; name {what}: diptych export {USAGE}")
    from diptych.front.using import export
    from diptych.models.export import LIMIT, targets

    if args.to not in targets():
        raise unknown("target", args.to, targets())
    report = export(args.model, args.to, args.out, weights=args.get("weights"))
    for note in report.notes:
        say(f"note: {note}")
    images = "" if report.images is None else f"images {report.images:.1e}, "
    print(f"largest difference to ours: {images}texts {report.texts:.1e} (limit {LIMIT:.0e})")
    print(f"{args.out} holds the model for {report.target}")
