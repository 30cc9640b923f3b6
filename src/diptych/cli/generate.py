"""Generate text with a language model, or about images with a vision-language model.

Each text is printed after its prompt, one per line; without a prompt, texts start from nothing. With
--images each line has an image and the text about it; the prompt is then the question that is asked
about each. With --data each text of a source is continued, in the format of a task. --blind writes a
page on which people rate two continuations of each prompt without knowing which is which; --votes
counts their votes.
"""

import json
from collections import Counter
from inspect import signature
from pathlib import Path
from typing import Any

from diptych.cli._model import add_device, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show, show_json
from diptych.errors import InputError
from diptych.files import check_file, write_atomic
from diptych.methods.abilities import require
from diptych.spec import Spec, parse

GROUP = "Use a model"
USAGE = "MODEL [PROMPT] [options]"
EXAMPLES = (
    "diptych generate runs/words 'a red'",
    "diptych generate runs/words 'a red' --top-p 0.9 --temperature 0.8 --seed 1 --count 5",
    "diptych generate runs/words 'a red' --strategy contrastive:k=5:alpha=0.6",
    "diptych generate runs/words 'a red' --strategy beam --beams 8 --max-tokens 20",
    "diptych generate runs/captions --images photos/",
    "diptych generate runs/documents --images photos/ --shots 4 --examples captions.csv",
    "diptych generate runs/answers 'how many cats are there?' --images photos/ --json",
    "diptych generate runs/answers 'what animal is it?' --images photos/ --among animals.txt",
    "diptych generate runs/judged 'both images show a dog' --images left.jpg,right.jpg",
    "diptych generate runs/judged --images pairs.csv:image=left+right --role question",
    "diptych generate hf-lm:opt/ --data 'news.jsonl:text=article;summary=summary' --task summary --out written.jsonl",
    "diptych generate runs/words --data stories.txt --against sample:top_p=0.95 --blind rate.html",
    "diptych generate --blind rate.html --votes ann.csv,ben.csv",
)
_OPTIONS = ("temperature", "top_k", "top_p", "beams", "length_penalty")
_WITH_DATA = (
    *("task", "role", "reference", "shots", "examples", "prefix", "out", "blind", "against"),
)
_REFERENCE = "reference"


def add(parser: Parser) -> None:
    parser.option(
        "What", "model", help="a RUN that generates text, tiny-lm, tiny-vlm or hf-lm:FOLDER"
    )
    parser.option(
        "What", "prompt", help="beginning of the text, or question about the images, in quotes"
    )
    parser.option(
        "What",
        "--images",
        metavar="SOURCE",
        help="images to write about: a folder, one image, 'shards/*.tar', a table, …",
    )
    parser.option(
        "What",
        "--among",
        metavar="FILE.txt",
        help="candidate answers, one per line, of which the most likely is printed (models of answers)",
    )
    parser.option(
        "How",
        "--strategy",
        metavar="NAME",
        help="decoding: greedy, sample, typical, contrastive or beam, with options as in contrastive:k=5 "
        "(default: sample; with --images beam; with --data the task's)",
    )
    parser.option(
        "How",
        "--temperature",
        type=float,
        metavar="X",
        help="sample: temperature of the softmax (default: 1)",
    )
    parser.option(
        "How",
        "--top-k",
        type=int,
        metavar="N",
        help="sample: draw from the N most probable tokens (default: all)",
    )
    parser.option(
        "How",
        "--top-p",
        type=float,
        metavar="P",
        help="sample: draw from the most probable tokens of total probability P (default: 0.95)",
    )
    parser.option(
        "How",
        "--beams",
        type=int,
        metavar="N",
        help="beam: number of hypotheses (default: 4, with --images 5)",
    )
    parser.option(
        "How",
        "--length-penalty",
        type=float,
        metavar="X",
        help="beam: scores are divided by length to the power X; 0 favours short texts (default: 1)",
    )
    parser.option(
        "How",
        "--max-tokens",
        type=int,
        metavar="N",
        help="largest number of generated tokens (default: the model's limit, with --data 64)",
    )
    parser.option(
        "How",
        "--min-tokens",
        type=int,
        metavar="N",
        help="without --images: smallest number of generated tokens (default: 0)",
    )
    parser.option(
        "How",
        "--count",
        type=int,
        least=1,
        metavar="N",
        help="without --images: number of texts (default: 1)",
    )
    parser.option(
        "How", "--seed", type=int, metavar="N", help="random seed of sampling (default: 0)"
    )
    many = "Many prompts"
    parser.option(many, "--data", metavar="SOURCE", help="source whose texts are continued")
    parser.option(
        many,
        "--task",
        metavar="SPEC",
        help="format of the prompts: open (default), summary, translation or code",
    )
    parser.option(
        many,
        "--role",
        metavar="ROLE",
        help="role of the texts (default: caption, or the first); with --images role of each image's "
        "prompt",
    )
    parser.option(many, "--reference", metavar="ROLE", help="role of the reference texts")
    parser.option(
        many,
        "--shots",
        type=int,
        metavar="N",
        help="number of examples before each prompt or image (default: 0)",
    )
    parser.option(many, "--examples", metavar="SOURCE", help="source of the examples")
    parser.option(
        many,
        "--prefix",
        type=int,
        metavar="N",
        help="open: number of tokens of each text that are its prompt (default: 16)",
    )
    parser.option(
        many,
        "--out",
        metavar="FILE",
        help="write the texts to this file as JSON lines, one per prompt",
    )
    rating = "Ratings by people"
    parser.option(
        rating,
        "--blind",
        metavar="PAGE",
        help="HTML page of pairs of texts to rate, such as rate.html",
    )
    parser.option(
        rating,
        "--against",
        metavar="NAME",
        help="other strategy to rate, or reference: what follows in the source",
    )
    parser.option(
        rating,
        "--votes",
        metavar="FILE,…",
        help="count these files of votes, which were saved on the page",
    )
    parser.option(
        "More",
        "--json",
        type=bool,
        help="print a JSON list of the texts, for images with their keys and paths",
    )
    add_device(parser)


def run(args: Namespace) -> None:
    if "votes" in args:
        _count_votes(args)
        return
    if not args.model:
        raise InputError(
            "diptych generate has no model; name a RUN of language_model, or of one that writes"
        )
    for name in ("out", "blind"):
        if name in args:
            check_file(Path(args[name]))
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
    for name in ("images", "among"):
        if name in args:
            raise InputError(
                f"{args.model} is a language model and reads no images; leave out --{name}"
            )
    if "data" in args:
        _of_source(args, model, settings)
        return
    alone = [name for name in _WITH_DATA if name in args]
    if alone:
        raise InputError(f"--{alone[0]} is about the texts of a source; name it with --data")
    prompt = args.prompt or ""
    found = model.generate([prompt] * count, **{"strategy": "sample", **settings})
    texts = [prompt + text for text in found]
    if args.get("json"):
        show_json(texts)
        return
    for text in texts:
        show(" ".join(text.split()))


def _of_source(args: Namespace, model: Any, settings: dict[str, Any]) -> None:
    """Continue the texts of a source, or write a page of pairs of continuations."""
    from diptych.data.sources import open_source
    from diptych.data.tasks import task
    from diptych.evaluation.embed import Steps
    from diptych.evaluation.suites._continuations import Format, continued, items
    from diptych.models.strategies import strategy_of

    if args.prompt or "count" in args:
        raise InputError(
            "with --data each text of the source is continued once; leave out "
            + ("the prompt" if args.prompt else "--count")
        )
    if ("blind" in args) != ("against" in args):
        raise InputError("a page compares two continuations; give both --blind and --against")
    form = Format(
        task=task(args.get("task", "open")),
        role=args.get("role"),
        reference=args.get("reference"),
        shots=args.get("shots", 0),
        prefix=args.get("prefix", 16),
        length=settings.get("max_tokens", 64),
    )
    given = parse(settings.get("strategy", form.task.strategy))
    options = {name: settings[name] for name in _OPTIONS if name in settings}
    own = str(Spec(given.name, {**given.options, **options}))
    names = [own, *([args.against] if "against" in args else [])]
    for name in names:
        if name != _REFERENCE:
            strategy_of(name)
    bad: Counter[str] = Counter()
    seed = settings.get("seed", 0)
    examples = open_source(args.examples) if "examples" in args else None
    prompts = items(model, open_source(args.data), form, examples=examples, seed=seed, bad=bad)
    if _REFERENCE in names:
        bad["without a reference"] += sum(not item.references for item in prompts)
        prompts = [item for item in prompts if item.references]
    least = settings.get("min_tokens", 0)
    with progress("writing") as report:
        steps = Steps(report, len(prompts) * (len(names) - (_REFERENCE in names)))

        def written(name: str) -> list[str]:
            """What a strategy writes, or the references."""
            if name == _REFERENCE:
                return [item.references[0] for item in prompts]
            return continued(model, prompts, form, name, seed=seed, min_tokens=least, steps=steps)

        texts = [written(name) for name in names]
    if "blind" in args:
        _write_page(args, prompts, names, texts, seed)
    else:
        _write_texts(args, form.task.name, own, prompts, texts[0])
    if +bad:
        reasons = ", ".join(f"{number} {reason}" for reason, number in (+bad).items())
        say(f"left out: {reasons}")


def _write_texts(args: Namespace, task: str, strategy: str, prompts: Any, texts: list[str]) -> None:
    """Show the texts or write them to a file; those of code in the form of HumanEval's samples."""
    rows: list[dict[str, Any]] = [
        {"task_id": item.key, "completion": text}
        if task == "code"
        else {
            "key": item.key,
            "prompt": item.prompt,
            "text": text,
            "references": list(item.references),
            "strategy": strategy,
        }
        for item, text in zip(prompts, texts, strict=True)
    ]
    if "out" in args:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        out = Path(args.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, lambda to: to.write_text(lines, "utf-8"))
        say(f"{len(rows)} texts in {out}")
    elif args.get("json"):
        show_json(rows)
    else:
        for item, text in zip(prompts, texts, strict=True):
            show(f"{item.key}\t{' '.join(text.split())}")


def _write_page(
    args: Namespace, prompts: Any, names: list[str], texts: list[list[str]], seed: int
) -> None:
    from diptych.lab.blind import Pair, write

    pairs = [
        Pair(key=item.key, prompt=item.prompt, texts=(a.strip(), b.strip()))
        for item, a, b in zip(prompts, *texts, strict=True)
    ]
    key = write(Path(args.blind), pairs, (names[0], names[1]), seed=seed)
    say(f"{len(pairs)} pairs in {args.blind}; {key} says whose they are, keep it from the raters")


def _count_votes(args: Namespace) -> None:
    """Show what votes on a page say."""
    from diptych.lab.blind import count

    if "blind" not in args:
        raise InputError("--votes are on a page; name it with --blind")
    found = count(Path(args.blind), [Path(name) for name in args.votes.split(",") if name])
    if args.get("json"):
        show_json(vars(found))
        return
    first, second = found.names
    low, high = found.interval
    show(f"{first}: better in {found.wins[0]} texts")
    show(f"{second}: better in {found.wins[1]} texts")
    show(f"no majority: {found.undecided} texts; {found.votes} votes by {found.raters} raters")
    show(
        f"share of {first}: {found.share:.2f}, 95 % interval {low:.2f} to {high:.2f}, sign test p = {found.p:.3g}"
    )
    if found.agreement is not None:
        show(f"votes that agree with the majority of their text: {found.agreement:.2f}")


def _of_images(args: Namespace, model: Any, settings: dict[str, Any]) -> None:
    """Write about the images of a source, or one image."""
    if "data" in args:
        raise InputError(f"{args.model} writes about images; name them with --images, not --data")
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
    if "among" in args:
        if "among" not in signature(model.generate).parameters:
            raise InputError(
                f"{args.model} writes freely and chooses from no list; leave out --among, or train albef with "
                "--method.task answers"
            )
        settings = {**settings, "among": _listed(args.among)}
    role = args.get("role") if "examples" not in args else None
    if role is not None and prompt is not None:
        raise InputError(
            f"--role {role} takes the prompts from the texts of the images; leave out --role or {prompt!r}"
        )
    model = _behind_examples(args, model, settings.get("seed", 0))
    together = tuple(args.images.split(","))
    if all(map(is_image, together)) and len(together) == getattr(model, "images_read", 1):
        one = args.images if len(together) == 1 else [together]
        [text] = model.generate(one, None if prompt is None else [prompt], **settings)
        found = [Written(args.images, args.images, text)]
        bad = {}
    else:
        with progress("writing") as report:
            found, bad = write_about(
                model, open_source(args.images), prompt, role=role, progress=report, **settings
            )
    if args.get("json"):
        parts = getattr(model, "parts", None) if prompt is role is None else None
        show_json(
            [
                {"key": each.key, "path": each.path, "text": each.text}
                | (parts(each.text) if parts else {})
                for each in found
            ]
        )
    else:
        for each in found:
            show(f"{each.path or each.key}\t{' '.join(each.text.split())}")
    if bad:
        reasons = ", ".join(f"{number} {reason}" for reason, number in bad.items())
        say(
            f"left out, as they cannot be read: {reasons} (`diptych check {args.images}` tells which)"
        )


def _listed(path: str) -> list[str]:
    """Return the lines of a file that are not blank. Raises InputError for a file that is not there."""
    try:
        lines = Path(path).expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"--among {path} is no text file; name one with an answer a line"
        ) from None
    return [line.strip() for line in lines if line.strip()]


def _behind_examples(args: Namespace, model: Any, seed: int) -> Any:
    """The model behind the images with captions that --shots and --examples ask for."""
    from diptych.data.sources import open_source
    from diptych.evaluation.suites._shots import behind_captions, check_shots

    examples = open_source(args.examples) if "examples" in args else None
    count = args.get("shots", 0)
    check_shots(model, "writing", count, examples)
    return (
        model
        if examples is None
        else behind_captions(model, examples, args.get("role"), count, seed)
    )
