"""Continue texts with a language model, or write about images with a model that does.

Each text is printed with its prompt, one a line; without a prompt texts begin anew. With --images a
line holds an image and what is written about it; the prompt is the question that each is asked.
"""

from typing import Any

from diptych.cli._model import add_device, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show, show_json
from diptych.errors import InputError
from diptych.methods.abilities import require

GROUP = "Use a model"
USAGE = "MODEL [PROMPT] [options]"
EXAMPLES = (
    "diptych generate runs/words 'a red'",
    "diptych generate runs/words 'a red' --top-p 0.9 --temperature 0.8 --seed 1 --count 5",
    "diptych generate runs/words 'a red' --strategy beam --beams 8 --max-tokens 20",
    "diptych generate runs/captions --images photos/",
    "diptych generate runs/answers 'how many cats are there?' --images photos/ --json",
)
_OPTIONS = ("temperature", "top_k", "top_p", "beams", "length_penalty")


def add(parser: Parser) -> None:
    parser.option("What", "model", help="a RUN that generates text, tiny-lm, or hf-lm:FOLDER")
    parser.option("What", "prompt", help="the beginning of the text, or the question, in quotes")
    parser.option(
        "What", "--images", metavar="SOURCE", help="a folder, one image, 'shards/*.tar', a table, …"
    )
    parser.option(
        "How", "--strategy", metavar="NAME", help="greedy, beam (the default for images) or sample"
    )
    parser.option(
        "How",
        "--temperature",
        type=float,
        metavar="X",
        help="of sample: below 1 safer, above 1 bolder (1)",
    )
    parser.option(
        "How",
        "--top-k",
        type=int,
        metavar="N",
        help="of sample: draw from the N most probable (all)",
    )
    parser.option(
        "How",
        "--top-p",
        type=float,
        metavar="P",
        help="of sample: from the share P of probability (0.95)",
    )
    parser.option(
        "How", "--beams", type=int, metavar="N", help="of beam: hypotheses (4, for images 5)"
    )
    parser.option(
        "How",
        "--length-penalty",
        type=float,
        metavar="X",
        help="of beam: 0 favours short texts (1)",
    )
    parser.option(
        "How", "--max-tokens", type=int, metavar="N", help="tokens at the most (what fits)"
    )
    parser.option("How", "--min-tokens", type=int, metavar="N", help="tokens at the least (0)")
    parser.option("How", "--count", type=int, least=1, metavar="N", help="texts (1)")
    parser.option("How", "--seed", type=int, metavar="N", help="decides what sample draws (0)")
    parser.option(
        "More", "--json", type=bool, help="a JSON list of the texts, of images with keys and paths"
    )
    add_device(parser)


def run(args: Namespace) -> None:
    if not args.model:
        raise InputError(
            "diptych generate has no model; name a RUN of language_model, or of one that writes"
        )
    count = args.get("count", 1)
    model: Any = load_model(args.model, args)
    require(model, "generate", "diptych generate", args.model)
    settings = {
        name: args[name]
        for name in (*_OPTIONS, "strategy", "max_tokens", "min_tokens", "seed")
        if name in args
    }
    if hasattr(model, "preprocess"):
        _of_images(args, model, settings)
        return
    if "images" in args:
        raise InputError(
            f"{args.model} is a language model and reads no images; leave out --images"
        )
    prompt = args.prompt or ""
    found = model.generate([prompt] * count, **{"strategy": "sample", **settings})
    texts = [prompt + text for text in found]
    if args.get("json"):
        show_json(texts)
        return
    for text in texts:
        show(" ".join(text.split()))


def _of_images(args: Namespace, model: Any, settings: dict[str, Any]) -> None:
    """Write about the images of a source, or one image."""
    if "images" not in args:
        raise InputError(
            f"{args.model} writes about images; name a folder of them, or one, with --images"
        )
    if "count" in args or "min_tokens" in settings:
        raise InputError("--count and --min-tokens are of language models; leave them out")
    from diptych.data.images import is_image
    from diptych.data.sources import open_source
    from diptych.inference.caption import Written, write_about

    prompt = args.prompt or None
    if is_image(args.images):
        [text] = model.generate(args.images, None if prompt is None else [prompt], **settings)
        found = [Written(args.images, args.images, text)]
        bad = {}
    else:
        with progress("writing") as report:
            found, bad = write_about(
                model, open_source(args.images), prompt, progress=report, **settings
            )
    if args.get("json"):
        show_json([{"key": each.key, "path": each.path, "text": each.text} for each in found])
    else:
        for each in found:
            show(f"{each.path or each.key}\t{' '.join(each.text.split())}")
    if bad:
        reasons = ", ".join(f"{number} {reason}" for reason, number in bad.items())
        say(
            f"left out, as they cannot be read: {reasons} (`diptych check {args.images}` tells which)"
        )
