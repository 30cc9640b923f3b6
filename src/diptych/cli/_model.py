"""The model of a verb, and how the command line names it."""

from typing import TYPE_CHECKING, Literal

from diptych.cli._parser import Parser
from diptych.cli._screen import say

if TYPE_CHECKING:
    from diptych.models.model import Model

MODELS = "a RUN folder, tiny (ships), openclip:NAME[/TAG], hf:REPO_OR_FOLDER, hf-lm:FOLDER, diffusers:FOLDER"


def add_weights(parser: Parser, section: str = "More") -> None:
    """Add `--weights`, for models of other libraries whose file is local."""
    parser.option(
        section, "--weights", metavar="FILE", help="local weights of an openclip: or hf: model"
    )


def add_precision(parser: Parser) -> None:
    """Add `--precision`, for verbs that only embed."""
    parser.option(
        "How",
        "--precision",
        type=Literal["float32", "bfloat16", "int8", "auto"],
        metavar="NAME",
        help="float32 (default), bfloat16, int8, or auto: a probe chooses",
    )


def add_share(parser: Parser) -> None:
    """Add `--share`, for verbs that compare embeddings."""
    parser.option(
        "How",
        "--share",
        type=float,
        metavar="S",
        help="of a model with two heads: the first one's weight",
    )


def add_space(parser: Parser) -> None:
    """Add `--space`, for verbs that compare embeddings."""
    parser.option(
        "How",
        "--space",
        metavar="NAME",
        help="of a model with several embedding spaces: which (default: its first)",
    )


def load_model(
    spec: str,
    weights: str | None = None,
    precision: str = "float32",
    share: float | None = None,
    space: str | None = None,
) -> "Model":
    """Return the model in a precision, on a GPU if there is one; `share` and `space` are those of
    `diptych.load`."""
    import torch

    from diptych.methods.store import load
    from diptych.models.precision import set_precision

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = set_precision(
        load(spec, weights=weights, share=share, space=space).to(device), precision
    )
    if precision == "auto":
        say(f"computing in {model.precision}, the fastest that is close enough to float32 here")
    return model
