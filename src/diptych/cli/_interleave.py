"""`diptych data interleave`: films as documents in which clips and texts alternate."""

from pathlib import Path
from typing import Any

from diptych.cli._describe import asked, read_prompt
from diptych.cli._model import load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show_table
from diptych.errors import InputError, some
from diptych.files import check_file

OPTIONS = (
    *("by", "prompt", "captions", "regions", "speech", "role", "frames", "join", "cuts", "rules"),
    *("model", "tries", "seed", "device"),
)


def add(parser: Parser) -> None:
    """Add the options of its own."""
    parser.option(
        "How",
        "--captions",
        metavar="WRITER",
        help="captions of the clips: FILE.json, cmd:PROGRAM, or a model that writes about images (default: "
        "the texts of the source)",
    )
    parser.option(
        "How",
        "--regions",
        metavar="WRITER",
        help="phrases of regions of the clips: FILE.json or cmd:PROGRAM (default: the boxes of the source)",
    )
    parser.option(
        "How",
        "--speech",
        metavar="FOLDER",
        help="folder of transcripts, FILM.vtt or FILM.srt (default: beside the films)",
    )
    parser.option(
        "How",
        "--frames",
        type=int,
        least=1,
        metavar="N",
        help="frames of a clip that --captions and --model read; 1: the middle one (default: 8)",
    )
    parser.option(
        "How",
        "--join",
        type=int,
        least=1,
        metavar="N",
        help="consecutive clips of the source that make one film (default: 1)",
    )
    parser.option(
        "How",
        "--cuts",
        metavar="KEY=VALUE:…",
        help="where films are cut: least change of a frame, its least ratio to the usual change, and bounds of a "
        "clip in seconds (default: min_change=0.04:min_ratio=3:min_seconds=0.5:max_seconds=60)",
    )


def run(args: Namespace, out: Path) -> None:
    """Write the documents, and show what was dropped and how many of the stated facts are true."""
    from diptych.data.sources import open_source
    from diptych.methods.fuse.cosmo.interleave import PROMPT, Rules, interleave
    from diptych.methods.fuse.cosmo.interleave.films import Cuts
    from diptych.spec import configure, parse

    if out.suffix != ".tsv":
        raise InputError(f"{out}: documents are a .tsv file; give --out {out.with_suffix('.tsv')}")
    check_file(out)
    if "by" not in args:
        raise InputError(
            "diptych data interleave has no writer; name one with --by: a language model (hf-lm:FOLDER, a RUN, "
            "tiny-lm), cmd:PROGRAM, or templates"
        )
    templates = args.by == "templates"
    prompt = "{caption}" if templates else PROMPT
    if "prompt" in args:
        prompt = args.prompt if templates else read_prompt(args.prompt)
    options = parse(f"cuts:{args.cuts}").options if "cuts" in args else {}
    limits = parse(f"rules:{args.rules}").options if "rules" in args else {}
    settings = {
        name: args[name] for name in ("speech", "role", "frames", "join", "tries") if name in args
    }
    settings["cuts"] = configure(Cuts, options, "--cuts")
    settings["rules"] = configure(Rules, limits, "--rules")
    source = open_source(args.world)
    writer = None if templates else _writer(args.by, args)
    settings["captions"] = _about_images(args, "captions")
    settings["regions"] = _about_images(args, "regions")
    if "model" in args:
        settings["score"] = _score(load_model(args.model, args))
    out.parent.mkdir(parents=True, exist_ok=True)
    with progress("interleaving") as report:
        found = interleave(source, out, writer, prompt=prompt, progress=report, **settings)
    clips = sum(map(len, found.documents))
    rows = [
        ("films", f"{found.films:,}", ""),
        ("clips", f"{found.clips:,}", ""),
        *(
            (f"dropped: {why}", f"{n:,}", f"{n / found.clips:.1%}")
            for why, n in found.dropped.most_common()
        ),
        ("clips kept", f"{clips:,}", f"{clips / found.clips:.1%}"),
        ("documents", f"{len(found.documents):,}", ""),
        *(
            (f"facts of {name} that are true", f"{true:,} of {stated:,}", f"{true / stated:.1%}")
            for name, (stated, true) in found.judged.items()
        ),
    ]
    show_table(args.world, ("what", "number", "share"), rows)
    if found.damaged:
        say(f"{len(found.damaged):,} films cannot be read and are left out: {some(found.damaged)}")
    own = Path(found.root) == out.with_suffix(".films").absolute()  # where the reader looks
    named = str(out) if own else f"{out}:images={found.root}"
    print(
        f"{out} holds them; train with: diptych train cosmo --init MODEL --data films={named} --out RUN"
    )


def _writer(by: str, args: Namespace) -> Any:
    """Return the writer of texts. Raises InputError for a model that writes about images."""
    writer = asked(by, args)
    if getattr(writer, "reads_images", False):
        raise InputError(
            f"--by {by} writes about images, and the text is written by a language model; give it with --captions"
        )
    return writer


def _about_images(args: Namespace, name: str) -> Any:
    """Return the writer of an option that is shown clips; None without the option. Raises InputError for
    one that reads no images, or no prompts."""
    from diptych.inference.describe import Generating, Prepared

    if name not in args:
        return None
    by = args[name]
    if by.endswith(".json"):
        return Prepared(by)
    writer = asked(by, args)
    if not isinstance(writer, Generating):
        return writer
    if name == "regions":
        raise InputError(
            f'--regions {by} is a model; phrases of regions come from FILE.json, {{"FILM#1": ["a red cat", …], …}}, '
            "or cmd:PROGRAM"
        )
    if not writer.reads_images:
        raise InputError(f"--captions {by} reads no images; name a model that writes about them")
    return writer


def _score(model: Any) -> Any:
    """Return the cosines of clips with their texts, by a model."""
    from diptych.methods.abilities import require

    require(model, "embed_images", "--model of diptych data interleave")
    require(model, "embed_texts", "--model of diptych data interleave")

    def score(clips: Any, texts: Any) -> Any:
        images = model.embed_images(list(clips))
        return (images * model.embed_texts(list(texts))).sum(1).tolist()

    return score
