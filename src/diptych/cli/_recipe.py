"""Options of the recipe with short names, for the verbs that train."""

from typing import Any, Literal

from diptych.cli._parser import Parser

RECIPE: tuple[tuple[str, Any, str, str], ...] = (
    ("batch-size", int, "N", "global batch size, over all ranks"),
    ("lr", float, "X", "peak learning rate"),
    (
        "optimizer",
        str,
        "NAME",
        "optimizer of `diptych list optimizers`, or the FILE.py of an update rule",
    ),
    (
        "chunk",
        int | None,
        "N",
        "gradient caching: tokens that a tower encodes at once, a 16 x 16 patch counting as one (null: all)",
    ),
    (
        "precision",
        Literal["float32", "bfloat16"],
        "NAME",
        "precision of training: float32 or bfloat16",
    ),
)
LENGTH: tuple[tuple[str, Any, str, str], ...] = (
    ("steps", int | None, "N", "training steps; overrides --epochs"),
    ("epochs", float, "N", "passes over the data"),
)

MORE: tuple[tuple[str, Any, str, str], ...] = (
    ("weight_decay", float, "X", "weight decay, which biases and norms are exempt from"),
    (
        "schedule",
        str,
        "NAME",
        "learning rate schedule: cosine, constant, linear, poly, steps, restarts, cyclic, plateau or onecycle",
    ),
    ("warmup", float, "X", "warm-up steps, or a share of all steps if below 1"),
    ("min_lr", float, "X", "final learning rate, as a share of --lr"),
    ("clip", float | None, "X", "largest norm of the gradient (null: no clipping)"),
    ("ema", float | None, "X", "decay of the moving average of weights that is saved (null: none)"),
    ("betas", tuple[float, float], "[X,X]", "decay rates of the optimizer's moments"),
    ("eps", float, "X", "constant in the optimizer's denominator"),
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
    for name, kind, metavar, about in MORE:
        dest = f"recipe.{name}"
        parser.option(section, f"--{dest}", dest=dest, type=kind, metavar=metavar, help=about)
