"""`diptych data describe`: a file of texts about classes, images or texts."""

from pathlib import Path
from typing import Any

from diptych.cli._model import load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show_table
from diptych.errors import InputError, some

OPTIONS = ("of", "images", "texts", "by", "prompt", "each", "whole", "tries", "seed", "device")
_TRIES = 3  # for each text that is wanted


def add(parser: Parser) -> None:
    """Add the options of its own."""
    parser.option(
        "How",
        "--of",
        metavar="LABEL",
        help="label of the source",
    )
    parser.option("How", "--images", type=bool, help="describe the images instead of classes")
    parser.option(
        "How", "--texts", metavar="ROLE", help="describe the texts of this role instead of classes"
    )
    parser.option(
        "How",
        "--prompt",
        metavar="FILE",
        help="file with the question",
    )
    parser.option(
        "How",
        "--whole",
        type=bool,
        help="one text in place of several",
    )
    parser.option(
        "How",
        "--tries",
        type=int,
        least=1,
        metavar="N",
        help="largest number of answers to a question",
    )


def run(args: Namespace, out: Path) -> None:
    """Write the texts, the cache of answers and the card, and show what was invalid."""
    import json

    from diptych.data import descriptions
    from diptych.data.answers import describe, lines, whole
    from diptych.data.sources import open_source
    from diptych.files import check_file, write_atomic
    from diptych.inference.describe import card, of_classes, of_images, of_texts

    if out.suffix != ".json":
        raise InputError(f"{out}: texts are a .json file; give --out {out.with_suffix('.json')}")
    check_file(out)
    if "by" not in args:
        raise InputError(
            "diptych data describe has no writer; name one with --by: templates, world, FILE.json, cmd:PROGRAM, or a "
            "RUN or hf-lm:FOLDER that generates"
        )
    if sum(name in args for name in ("of", "images", "texts")) > 1:
        raise InputError("--of, --images and --texts are three things to describe; give one")
    source = open_source(args.world)
    templates = args.by == "templates"
    prompt = "{}" if templates or "prompt" not in args else read_prompt(args.prompt)
    if args.get("images"):
        of = "images"
        questions = of_images(source, "" if "prompt" not in args else prompt)
    elif "texts" in args:
        of = f"texts of role {args.texts}"
        questions = of_texts(source, args.texts, prompt)
    else:
        of = f"classes of {args.get('of', 'the label')}"
        questions = of_classes(source, args.get("of"), prompt)
    writer = _writer(args, source)
    each = args.get("each")
    settings = {"read": whole if args.get("whole") else lines, "each": each}
    settings["tries"] = args.get("tries", _TRIES * (each or 1))
    with progress("asking") as report:
        found = describe(
            questions, writer, out.with_suffix(".answers.jsonl"), progress=report, **settings
        )
    if not found.texts:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in found.invalid.items())
        raise InputError(f"no answer of {writer.name} is a text ({reasons}); change the prompt")
    descriptions.write(out, found.texts)
    record = card(args.world, of, args.prompt if templates else prompt, writer.name, found)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_atomic(out.with_suffix(".card.json"), lambda at: at.write_text(text, "utf-8"))
    rows = [
        ("described", f"{len(found.texts):,}"),
        ("texts", f"{sum(map(len, found.texts.values())):,}"),
        ("answers asked for", f"{found.asked:,}"),
        ("answers found in the cache", f"{found.cached:,}"),
        *((f"invalid: {reason}", f"{n:,}") for reason, n in found.invalid.most_common()),
    ]
    show_table(f"{args.world}: {len(questions):,} {of}", ("what", "number"), rows)
    if found.lacking:
        say(f"{len(found.lacking):,} have fewer texts than wanted: {some(found.lacking)}")
    print(f"{out} holds the texts, {out.with_suffix('.card.json')} where they come from")


def read_prompt(name: str) -> str:
    path = Path(name).expanduser()
    try:
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--prompt {name}: no file of text ({error}); write the prompt into one"
        ) from None
    if not text:
        raise InputError(f"--prompt {name}: the file is empty; write the prompt into it")
    return text


def _writer(args: Namespace, source: Any) -> Any:
    """Return the writer that --by names."""
    from diptych.inference.describe import Generating, Prepared, Templates, World

    by = args.by
    seed = args.get("seed", 0)
    images = bool(args.get("images"))
    if by == "templates":
        if "prompt" not in args or images:
            raise InputError(
                "--by templates fills names or texts into templates; give them with --prompt 'a {} | one {}'"
            )
        return Templates(args.prompt)
    if by == "world":
        from diptych.data.sources.subset import class_label

        if "texts" in args:
            raise InputError("--by world writes about classes and images; leave out --texts")
        label = None if images else class_label(source, args.get("of"))
        return World(source, label, args.get("each"), seed)
    if by.endswith(".json"):
        return Prepared(by)
    if not images and "prompt" not in args:
        raise InputError(
            f"{by} is asked nothing; write a prompt with {{}} into a file and give --prompt FILE"
        )
    writer = asked(by, args)
    if isinstance(writer, Generating) and writer.reads_images != images:
        what = "images; add --images" if writer.reads_images else "no images; leave out --images"
        raise InputError(f"{by} reads {what}")
    return writer


def asked(by: str, args: Namespace) -> Any:
    """Return the writer that answers prompts: `cmd:PROGRAM`, or a model that generates."""
    from diptych.inference.describe import Generating, Program

    if by.startswith("cmd:"):
        return Program(by.removeprefix("cmd:"))
    return Generating(load_model(by, args), by, args.get("seed", 0))
