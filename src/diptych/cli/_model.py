"""The model that a verb works with, and how it is named on the command line."""

from typing import TYPE_CHECKING

from diptych.cli._parser import Parser

if TYPE_CHECKING:
    from diptych.towers.model import Model

MODELS = "a RUN folder, openclip:NAME[/TAG], or hf:REPO_OR_FOLDER"


def add_weights(parser: Parser) -> None:
    """`--weights`, for foreign models whose file is at hand."""
    parser.option("More", "--weights", metavar="FILE", help="local weights of an openclip: or hf: model")


def load_model(spec: str, weights: str | None = None) -> "Model":
    """The model, on a GPU where there is one."""
    import torch

    from diptych.methods.store import load

    return load(spec, weights=weights).to("cuda" if torch.cuda.is_available() else "cpu")
