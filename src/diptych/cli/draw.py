"""Generate images of a concept or of a text with a diffusion model, into a folder.

A run of cones draws a concept that it learned, by its name; --words adds ordinary words to the prompt,
if the run has a text tower. Runs of denoise and diffusers:FOLDER draw any text.
"""

from pathlib import Path
from typing import Any

from diptych.cli._model import add_device, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "MODEL NAME --out FOLDER [options]"
EXAMPLES = (
    "diptych draw runs/mine 'my cat' --out drawn/",
    "diptych draw runs/denoiser 'a red apple on a table' --out drawn/",
    "diptych draw runs/mine 'my cat' --words 'on grass' --guidance 5 --count 8 --out drawn/",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help="a RUN that was trained to draw, or diffusers:FOLDER")
    parser.option("What", "name", metavar="NAME", help="concept or text to draw, in quotes")
    parser.option(
        "What", "--words", metavar="TEXT", help="further words of the prompt, beside the concept"
    )
    parser.option("What", "--out", metavar="FOLDER", help="folder for the images")
    parser.option(
        "How", "--count", type=int, least=1, metavar="N", help="number of images (default: 4)"
    )
    parser.option(
        "How",
        "--guidance",
        type=float,
        metavar="X",
        help="classifier-free guidance scale (default: 3; 1 disables it)",
    )
    parser.option(
        "How", "--steps", type=int, least=1, metavar="N", help="denoising steps (default: 50)"
    )
    parser.option(
        "How", "--seed", type=int, metavar="N", help="random seed of the noise (default: 0)"
    )
    add_device(parser)


def run(args: Namespace) -> None:
    if not args.model:
        raise InputError("diptych draw has no model; name a RUN that was trained to draw")
    if not args.name:
        raise InputError("diptych draw has nothing to draw; give the name of a concept")
    if "out" not in args:
        raise InputError("diptych draw has no place to write to; name a folder with --out FOLDER")
    from diptych.methods.abilities import require

    model: Any = load_model(args.model, args)
    require(model, "draw", "diptych draw", args.model)
    settings = {name: args[name] for name in ("words", "guidance", "steps", "seed") if name in args}
    images = model.draw(args.name, args.get("count", 4), **settings)
    out = Path(args.out).expanduser()
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        image.save(out / f"{args.name.replace('/', ' ')}-{number:03d}.png")
    print(f"{out} holds {len(images)} images of {args.name!r}")
