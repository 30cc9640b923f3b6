"""Options of the recipe with short names, for the verbs that train."""

from typing import Any, Literal

from diptych.cli._parser import Parser

RECIPE: tuple[tuple[str, Any, str, str], ...] = (
    ("batch-size", int, "N", "samples that meet in a step, over all ranks"),
    ("lr", float, "X", "highest learning rate"),
    ("optimizer", str, "NAME", "one of `diptych list optimizers`, or the FILE.py of a program"),
    ("chunk", int | None, "N", "tokens a tower encodes at once (all); a 16 x 16 patch is one"),
    ("precision", Literal["float32", "bfloat16"], "NAME", "float32 or bfloat16"),
)
LENGTH: tuple[tuple[str, Any, str, str], ...] = (
    ("steps", int | None, "N", "how long; wins over epochs"),
    ("epochs", float, "N", "how long, in passes over the data"),
)

MORE: tuple[tuple[str, Any, str], ...] = (
    ("weight_decay", float, "X"),
    ("schedule", str, "NAME"),
    ("warmup", float, "X"),
    ("min_lr", float, "X"),
    ("clip", float | None, "X"),
    ("ema", float | None, "X"),
    ("betas", tuple[float, float], "[X,X]"),
    ("eps", float, "X"),
)


def add_recipe(
    parser: Parser, section: str, options: tuple[tuple[str, Any, str, str], ...] = RECIPE
) -> None:
    """Add `--lr` and similar options, which set `recipe.lr` and so on."""
    for name, kind, metavar, about in options:
        dest = f"recipe.{name.replace('-', '_')}"
        parser.option(section, f"--{name}", dest=dest, type=kind, metavar=metavar, help=about)


def add_more(parser: Parser, section: str) -> None:
    """Add `--recipe.X` for the options of the recipe that have no short name."""
    for name, kind, metavar in MORE:
        dest = f"recipe.{name}"
        parser.option(
            section, f"--{dest}", dest=dest, type=kind, metavar=metavar, help="of the recipe"
        )
