"""Train a method on images with texts, from scratch or from a model.

Options of the command line override those of --config FILE.yaml, which override the preset. The file
may be the config.yaml of another run. `diptych train METHOD --help` also lists the method's own
options (--method.X) and the rest of the recipe (--recipe.X). On several ranks: torchrun
--nproc_per_node 8 -m diptych train …
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from diptych.cli._method import add_method
from diptych.cli._model import EMBEDDERS, add_weights
from diptych.cli._parser import Namespace, Parser
from diptych.cli._recipe import LENGTH, RECIPE, add_recipe
from diptych.cli._screen import first_rank, say
from diptych.cli._signals import interruptible
from diptych.errors import InputError
from diptych.spec import shown, split_options, split_specs

GROUP = "Train"
USAGE = "METHOD|FILE.py --data SOURCE --out RUN [options]"
EXAMPLES = (
    "diptych train clip --data photos/ --out runs/first",
    "diptych train siglip --data 'shards/{0000..0099}.tar' --val val.tar --epochs 5 --lr 0.001 --out runs/web",
    "diptych train clip --data pairs.csv --init openclip:ViT-B-32/laion2b_s34b_b79k --out runs/mine",
    "diptych train supcon --data pets/ --shots 16 --out runs/few",
    "diptych train clip --with multi_view --with contrastive_gap:weight=0.5 --data photos/ --out runs/both",
    "diptych train clip --config runs/first/config.yaml --seed 1 --out runs/second",
    "diptych train --resume --out runs/first",
)

_DATA = "Data"
_MODEL = "Model"
_RECIPE = "Recipe (default: the preset's)"
_RUN = "Run"
_ROLE = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


def add(parser: Parser) -> None:
    parser.option(
        "Method",
        "name",
        metavar="METHOD",
        help="method of `diptych list`, or a FILE.py of your own",
    )
    parser.option(
        "Method",
        "--preset",
        metavar="NAME",
        help="small (minutes on two cores), paper (as published), usually tune (for --init), and others: "
        "see the method's page (default: tune with --init if there is one, else small)",
    )
    parser.option(
        "Method",
        "--with",
        dest="added",
        metavar="METHOD[:OPTION=VALUE]",
        action="append",
        help="add the loss of another method, scaled by :weight=X; may be repeated",
    )
    parser.option(
        _DATA,
        "--data",
        metavar="SOURCE[,SOURCE]",
        action="append",
        help="training data: a folder, 'shards/*.tar', a table, glyphs, …; ROLE=SOURCE for methods of "
        "several streams",
    )
    parser.option(
        _DATA,
        "--shots",
        type=int,
        metavar="K",
        help="train on K samples of each class, drawn by --seed (default: all)",
    )
    parser.option(
        _DATA, "--val", metavar="SOURCE", help="validation data, evaluated after each epoch"
    )
    parser.option(
        _DATA,
        "--select",
        dest="recipe.select",
        signed=True,
        metavar="NUMBER",
        help="keep the epoch with the best value of this validation metric, such as t2i_r1; -NUMBER if "
        "lower is better (default: the last epoch)",
    )
    parser.option(
        _DATA,
        "--patience",
        dest="recipe.patience",
        type=int,
        least=1,
        metavar="N",
        help="with --select: stop after N epochs without a better one (default: never)",
    )
    parser.option(
        _DATA,
        "--keep",
        dest="recipe.keep",
        type=Literal["best", "last"],
        metavar="best|last",
        help="with --select: weights to keep at the end (default: best)",
    )
    parser.option(
        _DATA,
        "--guard",
        metavar="SOURCE",
        help="data from an earlier task; training stops and restores the weights of the previous check if "
        "its score drops by more than --forget",
    )
    parser.option(
        _DATA,
        "--forget",
        dest="options.forget",
        type=float,
        metavar="X",
        help="largest accepted drop of the accuracy or recall on --guard (default: 0.02)",
    )
    parser.option(
        _DATA,
        "--workers",
        dest="options.workers",
        type=int,
        least=0,
        metavar="N",
        help="processes that load data (default: 0, the main process)",
    )
    parser.option(
        _DATA,
        "--max-bad",
        dest="options.max_bad",
        type=float,
        metavar="SHARE",
        help="largest accepted share of damaged samples (default: 0.01)",
    )
    parser.option(
        _MODEL,
        "--init",
        metavar="MODEL",
        help=f"initial weights: {EMBEDDERS}; for language models also hf-lm:FOLDER",
    )
    add_weights(parser, _MODEL)
    parser.option(
        _MODEL,
        "--adapt",
        metavar="lora[:OPTION=VALUE]",
        help="train low-rank factors (LoRA) instead of the towers' weights, as in "
        "lora:r=8:layers=q+v:towers=text",
    )
    parser.option(
        _MODEL,
        "--image-tower",
        metavar="SPEC",
        help="image tower, such as vit:width=384 or timm:resnet18",
    )
    parser.option(
        _MODEL, "--text-tower", metavar="SPEC", help="text tower, such as text:width=256:depth=4"
    )
    parser.option(
        _MODEL,
        "--tokenizer",
        metavar="SPEC",
        help="tokenizer: bpe:vocab_size=4096, clip, hf:FOLDER or saved:FILE",
    )
    parser.option(_MODEL, "--embed-dim", type=int, metavar="N", help="embedding dimension")
    parser.option(
        _MODEL,
        "--exportable",
        metavar="TARGET",
        help="choose towers that the export target has too: hf, openclip, onnx or sentence-transformers",
    )
    add_recipe(parser, _RECIPE, (*LENGTH, *RECIPE))
    parser.option(_RUN, "--out", metavar="RUN", help="folder of the run")
    parser.option(
        _RUN,
        "--seed",
        dest="options.seed",
        type=int,
        metavar="N",
        help="random seed (default: 0)",
    )
    parser.option(
        _RUN,
        "--config",
        dest="file",
        metavar="FILE.yaml",
        help="file of options, which the command line overrides",
    )
    parser.option(
        _RUN,
        "--resume",
        type=bool,
        help="continue from the last checkpoint; only --out is needed with it",
    )
    parser.option(
        _RUN,
        "--save-every",
        dest="options.save_every",
        type=int,
        least=1,
        metavar="N",
        help="steps between checkpoints (default: 500)",
    )
    parser.option(
        _RUN,
        "--nonfinite",
        dest="options.nonfinite",
        type=Literal["stop", "skip"],
        metavar="stop|skip",
        help="at a loss or gradient that is not finite: stop the run, or skip the step (default: stop)",
    )
    parser.option(
        _RUN,
        "--spike",
        dest="options.spike",
        type=float | None,
        metavar="X",
        help="skip a step whose loss is above X times the median of the last 100 (default: never)",
    )
    parser.option(
        _RUN,
        "--shard",
        dest="options.shard",
        type=bool,
        help="shard weights and optimizer state over the ranks (FSDP)",
    )
    parser.option(
        _RUN,
        "--tracker",
        dest="options.tracker",
        type=Literal["tensorboard", "wandb", "trackio"],
        metavar="NAME",
        help="also log to tensorboard, wandb or trackio (default: none)",
    )
    parser.option(_RUN, "--quiet", dest="options.quiet", type=bool, help="hide progress")


def extend(parser: Parser, words: list[str]) -> list[str]:
    """Add the options of the method and of its recipe, and put the options of a file before the
    words. A file must not choose code to run: methods that are files are named by the words alone."""
    method = next(iter(parser.positionals(words)), None)
    path = _config_file(parser, words, method)
    if method is None and path is None:
        return words
    tree: dict[str, Any] = {}
    if path is not None:
        from diptych.training.config import read

        tree = read(path)
    named = tree.pop("method", None)
    if named is not None and not isinstance(named, str):
        raise InputError(
            f"method in {path} is {shown(named)}; write its name, and its options under config"
        )
    name = method or named
    if name is None:
        return words
    if method is None and name.endswith(".py"):
        raise InputError(
            f"{path} is of the method in {name}; name that file: diptych train {name} …"
        )
    add_method(parser, name)
    if (
        "config" in tree
    ):  # the method's own options are `config` in a run's config.yaml, --method.X here
        tree["method"] = tree.pop("config")
    given = {word.partition("=")[0] for word in words}
    if "data" in tree:
        tree["data"] = _joined(tree["data"], path) if "--data" not in given else None
    added = tree.pop("added", None) or tree.pop("with", None) or []
    if not (isinstance(added, list) and all(isinstance(spec, str) for spec in added)):
        raise InputError(
            f"with in {path} is {shown(added)}; write a list of methods, such as [multi_view]"
        )
    tree.pop("files", None)
    others = [] if "--with" in given else [f"--with={spec}" for spec in added]
    if others and any(split_options(spec)[0].endswith(".py") for spec in added):
        raise InputError(
            f"{path} adds the loss of a method in a file; name it too: --with {' --with '.join(added)}"
        )
    if "--epochs" in given and isinstance(tree.get("recipe"), dict):
        tree["recipe"].pop("steps", None)  # --epochs overrides the file's steps
    return [*([] if method else [name]), *parser.words_of(tree, str(path)), *others, *words]


def _config_file(parser: Parser, words: Sequence[str], method: str | None) -> Path | None:
    """Return the file of --config; for --resume without a method, or with its file, that of the
    run."""
    if (given := parser.value_of("--config", words)) is not None:
        path = Path(given)
        if not path.is_file():
            raise InputError(f"--config {path}: there is no such file; check the path")
        return path
    out = parser.value_of("--out", words)
    named = method is not None and not method.endswith(".py")
    return (
        Path(out, "config.yaml").expanduser() if out and "--resume" in words and not named else None
    )


def _joined(data: Any, path: Path | None) -> str:
    """Return the `data` of a file, a spec or a mapping of streams to specs, as a word for
    --data."""
    if isinstance(data, str):
        return data
    if isinstance(data, Mapping) and all(isinstance(spec, str) for spec in data.values()):
        return ",".join(f"{role}={spec}" for role, spec in data.items())
    raise InputError(
        f"data in {path} is {data!r}; write a source, or a mapping of streams to sources"
    )


def streams(words: Sequence[str]) -> dict[str, str]:
    """Return streams by role from the words of --data; sources without a role belong to the stream
    named before them, at first `train`.

    >>> streams(["a.tar,b.{tar,tgz}", "web=c.tar"])
    {'train': 'a.tar,b.{tar,tgz}', 'web': 'c.tar'}
    """
    found: dict[str, list[str]] = {}
    for word in words:
        role = "train"
        for part in _sources(word):
            if (named := _ROLE.fullmatch(part)) is not None:
                role, part = named.groups()
            if not part:
                raise InputError(
                    f"--data {word!r} names no source; write --data SOURCE, or --data {role}=SOURCE"
                )
            found.setdefault(role, []).append(part)
    return {role: ",".join(parts) for role, parts in found.items()}


def few(data: Mapping[str, str], shots: int, seed: int) -> dict[str, str]:
    """Return the streams with options added to each source of `train` that sample `shots` images of
    each of its classes.

    >>> few({"train": "a.tar,b.{tar,tgz}", "web": "c.tar"}, 16, seed=1)
    {'train': 'a.tar:shots=16:draw=1,b.{tar,tgz}:shots=16:draw=1', 'web': 'c.tar'}
    """
    if "train" not in data:
        names = ", ".join(data)
        raise InputError(
            f"--shots is of the stream train, and --data names {names}; write SOURCE:shots={shots} there"
        )
    drawn = [f"{part}:shots={shots}:draw={seed}" for part in _sources(data["train"])]
    return {**data, "train": ",".join(drawn)}


def _sources(word: str) -> list[str]:
    return [word] if os.path.exists(word) else split_specs(word)  # noqa: PTH110  (False for any text)


def run(args: Namespace) -> int:
    if not args.name:
        raise InputError(
            "diptych train has no method; write diptych train METHOD --data SOURCE --out RUN "
            "(`diptych list` shows the methods)"
        )
    if "out" not in args:
        raise InputError("diptych train has no place to write to; name a folder with --out RUN")
    if "data" not in args:
        raise InputError(
            "diptych train has no data; name a source with --data, such as photos/, pairs.csv or glyphs"
        )
    from diptych.front.training import remembered, validation, write_report
    from diptych.training.config import plain, preset_for, resolve, resume_command
    from diptych.training.engine import Interrupted
    from diptych.training.launch import leave
    from diptych.training.run import run as train

    names = ("preset", "val", "guard", "init", "weights", "image_tower", "text_tower", "tokenizer", "embed_dim",
             "exportable", "added", "adapt")  # fmt: skip
    groups = {
        name: args.get(name, Namespace()).as_dict() for name in ("method", "recipe", "options")
    }
    given = {"preset": preset_for(args.name, args.get("init"))} | {
        name: args[name] for name in names if name in args
    }
    config = resolve(args.name, streams(args.data), config=groups.pop("method"), **given, **groups)
    if "shots" in args:  # in the specs, so that config.yaml fully determines the samples
        config = replace(config, data=few(config.data, args.shots, config.options.seed))
    out = Path(args.out).expanduser()
    command = resume_command(plain(config), out)
    with interruptible() as interrupted:
        try:
            summary = train(
                config,
                out,
                resume=bool(args.get("resume")),
                validate=validation,
                remember=remembered,
                begun=None if "preset" in args else _tell_tune(config),
            )
        except Interrupted:
            say(f"stopped, and the state is saved; go on with: {command}")
            leave()
            return 130 if interrupted() else 0
        except KeyboardInterrupt:
            if not (out / "config.yaml").exists():
                raise  # nothing was started
            say(f"stopped at once; go on from the last checkpoint with: {command}")
            return 130
    if first_rank():
        if not config.options.quiet:
            say(f"writing {out}/report.html: curves, and what a search finds")
        reported = write_report(out)
        _report(out, config.val, summary, reported)
    leave()
    return 0


def _tell_tune(config: Any) -> Callable[[], None] | None:
    """Return a function that reports the use of the preset `tune` by default."""
    if config.preset != "tune":
        return None
    from diptych.training.optim import title

    recipe = config.recipe
    taken = f"{title(recipe.optimizer)}, lr {recipe.lr:g}, batches of {recipe.batch_size}"
    return lambda: say(
        f"--init takes the preset tune: {taken}; --lr and the like change it, --preset small trains as from scratch"
    )


def _report(out: Path, val: str | None, summary: Any, reported: bool) -> None:
    if summary.damaged:
        from diptych.data.sample import damage_summary

        say(f"damaged samples, whose places others took: {damage_summary(summary.damaged)}")
    if summary.skipped:
        say(f"steps skipped because their loss was not finite, or a spike: {summary.skipped}")
    if lost := summary.forgot:
        say(
            f"ended at step {lost['step']:,.0f}: the guard's score fell from {lost['start']:.3f} to "
            f"{lost['score']:.3f}; the model is that of step {lost['kept']:,.0f}"
        )
    if numbers := _last_validation(out):
        say(
            "validation: "
            + ", ".join(
                f"{name.removeprefix('val/')} {value:.3f}" for name, value in numbers.items()
            )
        )
    report = " and report.html" if reported else ""
    steps = "1 step" if summary.steps == 1 else f"{summary.steps:,} steps"
    print(f"{out} holds the model ({steps}){report}. Next:")
    from diptych.methods.registry import is_file, method_class
    from diptych.methods.store import read_description

    stored = read_description(out)
    method = stored["method"]
    named = f" --method {quote(method)}" if is_file(method) and not stored["plain"] else ""
    for command in method_class(method).next_steps(stored["config"]):
        file = "" if command.startswith("train ") else named  # train names a method of its own
        print("  diptych " + command.format(run=out, data=val or "SOURCE") + file)


def _last_validation(out: Path) -> dict[str, float]:
    from diptych.front.training import Run

    lines = [line for line in Run(out).history if line.get("event") in ("validation", "selected")]
    last = lines[-1] if lines else {}
    return {name: value for name, value in last.items() if name.startswith("val/")}
