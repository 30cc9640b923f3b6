"""Show which parts of an image are like a sentence, as a heat map of a model's image positions.

The file that it writes is the part of the image that the model sees, in greys, red where it is most
like the sentence. With --json the value of each position is printed: the cosine, or for a model that
matches pairs how much the position contributes to a match. With --reconstruct, a model that was
trained to reconstruct masks what is most like the sentence, and draws it from the sentence.
"""

from pathlib import Path
from typing import Any

from diptych.cli._model import EMBEDDERS, add_device, add_weights, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import show, show_json
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "MODEL IMAGE 'a sentence' [--out HEAT.png] [options]"
EXAMPLES = (
    "diptych ground runs/mine photo.jpg 'a red bus'",
    "diptych ground runs/mine photo.jpg 'a red bus' --json",
    "diptych ground runs/sycoca photo.jpg 'a red bus' --reconstruct drawn.png",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help=EMBEDDERS)
    parser.option("What", "image", help="image, a file")
    parser.option("What", "sentence", help="sentence to look for, in quotes")
    parser.option(
        "What", "--out", metavar="FILE.png", help="file for the heat map (default: IMAGE-heat.png)"
    )
    parser.option(
        "What",
        "--reconstruct",
        metavar="FILE.png",
        help="file for the image with what is most like the sentence masked, and drawn from the sentence",
    )
    parser.option(
        "How",
        "--masked",
        type=float,
        metavar="X",
        help="with --reconstruct: share of the image that is masked (default: that of training)",
    )
    parser.option(
        "How",
        "--sigma",
        type=float,
        metavar="N",
        help="width of a Gaussian that smooths the map, in positions (default: 0, no smoothing)",
    )
    parser.option(
        "More",
        "--json",
        type=bool,
        help="print JSON; the heat map is written only if --out is given",
    )
    add_weights(parser)
    add_device(parser)


def run(args: Namespace) -> None:
    _check(args)
    from diptych.inference.ground import ground_image
    from diptych.inference.reconstruct import reconstruct_image

    out = _out(args)
    panels = _png(args, "reconstruct") if "reconstruct" in args else None
    model: Any = load_model(args.model, args)
    drawn = None
    if panels is not None:
        drawn, shown = reconstruct_image(
            model, args.image, args.sentence, share=args.get("masked"), name=args.model
        )
        shown.save(panels)
    found, image = ground_image(model, args.image, args.sentence, sigma=args.get("sigma", 0.0))
    if out is not None:
        image.save(out)
    if args.get("json"):
        _show_json(args, model.heat_measure, found, out, drawn)
        return
    x, y = found.best
    show(
        f"most like “{found.sentence}” around pixel ({x:.0f}, {y:.0f}): {model.heat_measure} "
        f"{found.cosines.max():.3f}, where the least is {found.cosines.min():.3f}; {out} shows it"
    )
    if drawn is not None:
        show(
            f"{drawn.mask.sum()} of {drawn.mask.size} patches masked and drawn from the sentence with a mean squared "
            f"error of {drawn.error:.4f}; {panels} shows them"
        )


def _check(args: Namespace) -> None:
    """Raise InputError for what is missing, and for an image that cannot be read."""
    for name, wanted in (
        ("model", EMBEDDERS),
        ("image", "an image, a file"),
        ("sentence", "what to look for, in quotes"),
    ):
        if not args[name]:
            raise InputError(f"diptych ground has no {name}; name {wanted}")
    if not args.sentence.strip():
        raise InputError("diptych ground has an empty sentence; say what to look for")
    from diptych.data.images import is_image

    if not Path(args.image).exists():
        raise InputError(f"{args.image}: there is no such file; check the path of the image")
    if not is_image(args.image):
        raise InputError(
            f"{args.image} is no image; name a JPEG, PNG, WebP, GIF, TIFF, AVIF or HEIC file"
        )
    if "masked" in args and ("reconstruct" not in args or not 0 < args.masked < 1):
        raise InputError(
            "--masked is the share of the image that --reconstruct FILE.png masks, above 0 and below 1"
        )


def _show_json(args: Namespace, measure: str, found: Any, out: Path | None, drawn: Any) -> None:
    """Print what was found, numbers of a measure, and what of it was masked and drawn, as JSON."""
    x, y = found.best
    values = {
        "model": args.model,
        "image": args.image,
        "sentence": found.sentence,
        "grid": list(found.cosines.shape),
        f"{measure}s": found.cosines.tolist(),
        "best": {"x": x, "y": y, measure: float(found.cosines.max())},
        "seen": list(found.seen),
        "out": None if out is None else str(out),
    }
    if drawn is not None:
        values |= {"masked": drawn.mask.tolist(), "error": drawn.error}
    show_json(values)


def _out(args: Namespace) -> Path | None:
    """Return the path of the image; None if only numbers are requested."""
    if "out" not in args:
        given = Path(args.image)
        return None if args.get("json") else given.with_name(f"{given.stem}-heat.png")
    return _png(args, "out")


def _png(args: Namespace, option: str) -> Path:
    """Return the path that an option names."""
    given = f"--{option} {args[option]}"
    out = Path(args[option]).expanduser()
    if out.suffix.lower() != ".png":
        raise InputError(f"{given} does not end in .png; name a PNG file")
    if out.resolve() == Path(args.image).resolve():
        raise InputError(f"{given} is the image itself; name another file")
    if not out.parent.is_dir():
        raise InputError(f"{given}: there is no folder {out.parent}; make it first")
    from diptych.files import check_file

    check_file(out)
    return out
