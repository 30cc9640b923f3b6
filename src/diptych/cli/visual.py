"""Score how visual texts are, that is, whether they describe something that can be seen.

Larger scores are more visual, and texts above the threshold are called visual. The threshold is the
run's own, or the best on labelled texts of yours (--val), or the one that you give. --words shows
instead how much the last layer of the text tower attends to each word, for any model with a text tower.
"""

from pathlib import Path
from typing import Any

from diptych.cli._model import add_device, add_precision, add_weights, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, show_json, show_table
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "MODEL 'a text' | MODEL TEXTS.txt [options]"
EXAMPLES = (
    "diptych visual runs/visual 'two dogs on a beach'",
    "diptych visual runs/visual sentences.txt --json",
    "diptych visual runs/visual sentences.txt --val labelled.jsonl --label label",
    "diptych visual openclip:ViT-B-32/openai 'two dogs on a beach' --words",
)
_SHOWN = 40  # texts in the table


def add(parser: Parser) -> None:
    parser.option(
        "What",
        "model",
        help="a RUN that was trained to score texts; with --val or --words also other models",
    )
    parser.option("What", "texts", help="text in quotes, or a .txt file with one text per line")
    parser.option(
        "How",
        "--threshold",
        type=float,
        metavar="X",
        help="score above which a text is visual (default: the run's)",
    )
    parser.option(
        "How", "--val", metavar="SOURCE", help="labelled texts on which the threshold is chosen"
    )
    parser.option(
        "How",
        "--label",
        metavar="LABEL",
        help="with --val: label that is 1 for visual texts (default: visual or label, else whether there "
        "is an image)",
    )
    parser.option(
        "How",
        "--words",
        type=bool,
        help="show the share of attention of each word instead of a score",
    )
    parser.option(
        "How",
        "--role",
        metavar="ROLE",
        help="with --val: role of the texts (default: caption, or the first)",
    )
    parser.option("More", "--json", type=bool, help="print JSON, of all texts, instead of a table")
    add_precision(parser)
    add_weights(parser)
    add_device(parser)


def run(args: Namespace) -> None:
    if not args.model or not args.texts:
        raise InputError(
            "diptych visual has no model or no texts; write diptych visual RUN 'a text', or a .txt file"
        )
    if args.get("words"):
        _words(args)
        return
    if "threshold" in args and "val" in args:
        raise InputError("--threshold and --val both say the threshold; leave one out")
    if loose := [name for name in ("label", "role") if name in args and "val" not in args]:
        raise InputError(f"--{loose[0]} is of the texts of --val; name them, or leave it out")
    texts = _texts(args.texts)
    model: Any = load_model(args.model, args)
    threshold = _threshold(args, model)
    from diptych.evaluation.suites.visualness import scores_of

    with progress("scoring") as report:
        scores = scores_of(model, texts, progress=report).tolist()
    reported = [
        {"text": text, "score": score, "visual": score > threshold}
        for text, score in zip(texts, scores, strict=True)
    ]
    if args.get("json"):
        show_json({"model": args.model, "threshold": threshold, "texts": reported})
        return
    rows = [
        (each["text"], each["score"], "yes" if each["visual"] else "no")
        for each in reported[:_SHOWN]
    ]
    more = (
        f"; and {len(reported) - _SHOWN:,} more, --json tells all" if len(reported) > _SHOWN else ""
    )
    count = sum(each["visual"] for each in reported)
    note = f"{count:,} of {len(reported):,} are above {threshold:.3f}{more}"
    show_table(f"{args.texts} by {args.model}", ("text", "score", "visual"), rows, note)


def _words(args: Namespace) -> None:
    """Show the words of each text with their shares of the attention."""
    for name in ("threshold", "val", "label", "role"):
        if name in args:
            raise InputError(f"--words scores no text; leave --{name} out, or --words")
    texts = _texts(args.texts)
    from diptych.models.word_attention import word_attention

    with progress("reading") as report:
        found = word_attention(load_model(args.model, args), texts, progress=report)
    if args.get("json"):
        reported = [
            {"text": text, "words": [{"word": word, "share": share} for word, share in words]}
            for text, words in zip(texts, found, strict=True)
        ]
        show_json({"model": args.model, "texts": reported})
        return
    rows = [
        (number, word, share)
        for number, words in enumerate(found[:_SHOWN], 1)
        for word, share in words
    ]
    more = f"{len(found) - _SHOWN:,} more texts; --json tells all" if len(found) > _SHOWN else ""
    title = f"the attention of {args.model} to the words of {args.texts}"
    show_table(title, ("text", "word", "share"), rows, more)


def _threshold(args: Namespace, model: Any) -> float:
    """Return the threshold: the given one, the best on the texts of --val, or the model's own."""
    if "threshold" in args:
        return args.threshold
    if "val" in args:
        from diptych.data.sources import open_source
        from diptych.evaluation.suites.visualness import labelled, scores_of
        from diptych.metrics import best_threshold

        texts, visual = labelled(
            open_source(args.val), role=args.get("role"), label=args.get("label")
        )
        return best_threshold(scores_of(model, texts), visual)
    threshold = getattr(model, "threshold", None)
    if threshold is None:
        from diptych.methods.abilities import able_methods

        raise InputError(
            f"{args.model} has no threshold; give --threshold, or --val SOURCE with texts whose kind is known, or "
            f"{able_methods('score')}"
        )
    return threshold


def _texts(given: str) -> list[str]:
    """Return one text, or those of a file, one per line."""
    path = Path(given).expanduser()
    if path.suffix != ".txt":
        return [given]
    if not path.is_file():
        raise InputError(f"{given}: there is no such file; check the path")
    from diptych.files import text_of

    texts = [line.strip() for line in text_of(path).splitlines() if line.strip()]
    if not texts:
        raise InputError(f"{given} holds no text; write one a line")
    return texts
