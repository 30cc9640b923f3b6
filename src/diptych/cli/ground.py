"""Show where an image is like a sentence, by the positions of a model's image tower.

The image that it writes is the part that the model sees, in greys, red where it is most like the
sentence. With --json it tells the cosine of each position; of a model that matches pairs, how much
the position speaks for a match.
"""

from pathlib import Path
from typing import Any

from diptych.cli._model import MODELS, add_device, add_weights, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import show, show_json
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "RUN IMAGE 'a sentence' [--out HEAT.png] [options]"
EXAMPLES = (
    "diptych ground runs/mine photo.jpg 'a red bus'",
    "diptych ground runs/mine photo.jpg 'a red bus' --json",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help=MODELS)
    parser.option("What", "image", help="an image, a file")
    parser.option("What", "sentence", help="what to look for, in quotes")
    parser.option(
        "What", "--out", metavar="FILE.png", help="where the image goes (default: IMAGE-heat.png)"
    )
    parser.option(
        "How",
        "--sigma",
        type=float,
        metavar="N",
        help="smooth the map by a Gaussian of this many positions (default: 0, none)",
    )
    parser.option("More", "--json", type=bool, help="JSON; an image only where --out is given")
    add_weights(parser)
    add_device(parser)


def run(args: Namespace) -> None:
    for name, wanted in (
        ("model", MODELS),
        ("image", "an image, a file"),
        ("sentence", "what to look for, in quotes"),
    ):
        if not args[name]:
            raise InputError(f"diptych ground has no {name}; name {wanted}")
    if not args.sentence.strip():
        raise InputError("diptych ground has an empty sentence; say what to look for")
    from diptych.data.images import is_image
    from diptych.inference.ground import ground_image

    if not Path(args.image).exists():
        raise InputError(f"{args.image}: there is no such file; check the path of the image")
    if not is_image(args.image):
        raise InputError(
            f"{args.image} is no image; name a JPEG, PNG, WebP, GIF, TIFF, AVIF or HEIC file"
        )
    out = _out(args)
    model: Any = load_model(args.model, args)
    found, image = ground_image(model, args.image, args.sentence, sigma=args.get("sigma", 0.0))
    if out is not None:
        image.save(out)
    x, y = found.best
    if args.get("json"):
        show_json(
            {
                "model": args.model,
                "image": args.image,
                "sentence": found.sentence,
                "grid": list(found.cosines.shape),
                f"{model.heat_measure}s": found.cosines.tolist(),
                "best": {"x": x, "y": y, model.heat_measure: float(found.cosines.max())},
                "seen": list(found.seen),
                "out": None if out is None else str(out),
            }
        )
        return
    show(
        f"most like “{found.sentence}” around pixel ({x:.0f}, {y:.0f}): {model.heat_measure} "
        f"{found.cosines.max():.3f}, where the least is {found.cosines.min():.3f}; {out} shows it"
    )


def _out(args: Namespace) -> Path | None:
    """Return the path of the image; None if only numbers are requested."""
    if "out" not in args:
        given = Path(args.image)
        return None if args.get("json") else given.with_name(f"{given.stem}-heat.png")
    out = Path(args.out).expanduser()
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {args.out} does not end in .png; name a PNG file")
    if out.resolve() == Path(args.image).resolve():
        raise InputError(f"--out {args.out} is the image itself; name another file")
    if not out.parent.is_dir():
        raise InputError(f"--out {args.out}: there is no folder {out.parent}; make it first")
    return out
