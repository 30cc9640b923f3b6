"""Export a model to the format of another library, and check that it embeds alike.

The other library loads what was written and embeds the same images and texts; the folder is created
only if no entry of its unit vectors differs by more than 1e-5.
"""

from diptych.cli._model import EMBEDDERS, add_method_file, add_weights, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import say, waiting
from diptych.errors import InputError, unknown

GROUP = "Use a model"
USAGE = "MODEL --to onnx|openclip|hf|sentence-transformers --out DIR"
EXAMPLES = (
    "diptych export runs/first --to onnx --out first-onnx",
    "diptych export openclip:ViT-B-32/laion2b_s34b_b79k --to hf --out clip-hf",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help=EMBEDDERS)
    parser.option(
        "What",
        "--to",
        metavar="TARGET",
        help="target format: onnx, openclip, hf or sentence-transformers",
    )
    parser.option("What", "--out", metavar="DIR", help="new folder for the exported model")
    add_weights(parser)
    add_method_file(parser)


def run(args: Namespace) -> None:
    if not args.model:
        raise InputError(f"diptych export has no model; write diptych export {USAGE}")
    for name, what in (("to", "a target"), ("out", "a new folder")):
        if name not in args:
            raise InputError(f"diptych export lacks --{name}; name {what}: diptych export {USAGE}")
    from diptych.models.export import LIMIT, export, targets

    if args.to not in targets():
        raise unknown("target", args.to, targets())
    model = load_model(args.model, args, device="cpu")
    report = export(model, args.to, args.out, stage=waiting)
    for note in report.notes:
        say(f"note: {note}")
    images = "" if report.images is None else f"images {report.images:.1e}, "
    print(f"largest difference to ours: {images}texts {report.texts:.1e} (limit {LIMIT:.0e})")
    print(f"{args.out} holds the model for {report.target}")
