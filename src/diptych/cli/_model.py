"""The model of a verb, and how the command line names it."""

from typing import Any, Literal

from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import say

MODELS = "a RUN folder, tiny (ships), openclip:NAME[/TAG], hf:REPO_OR_FOLDER, hf-lm:FOLDER, diffusers:FOLDER"


def add_weights(parser: Parser, section: str = "More") -> None:
    """Add `--weights`, for models of other libraries whose file is local."""
    parser.option(
        section, "--weights", metavar="FILE", help="local weights of an openclip: or hf: model"
    )


def add_precision(parser: Parser) -> None:
    """Add `--precision` and `--backend`, for verbs that only embed."""
    parser.option(
        "How",
        "--precision",
        type=Literal["float32", "bfloat16", "int8", "auto"],
        metavar="NAME",
        help="float32 (default), bfloat16, int8, or auto: a probe chooses",
    )
    parser.option(
        "How",
        "--backend",
        type=Literal["torch", "openvino", "onnxruntime", "auto"],
        metavar="NAME",
        help="what embeds: torch (default), openvino, onnxruntime, or auto: a probe chooses",
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


def add_device(parser: Parser) -> None:
    """Add `--device`, for verbs that compute with a model."""
    parser.option(
        "How",
        "--device",
        metavar="NAME",
        help="auto (default: a GPU if there is one), cpu, cuda, cuda:N or mps",
    )


def add_engine(parser: Parser) -> None:
    """Add `--engine`, for verbs whose work a cluster can share."""
    parser.option(
        "How",
        "--engine",
        metavar="ray[:ADDRESS]",
        help="by Ray's workers: of this machine (ray), or of its cluster (ray:auto, ray:HOST:PORT)",
    )


def load_model(spec: str, args: Namespace, **given: Any) -> Any:
    """Return the model of a spec with the options of the command line, or those `given` in their
    place, as `diptych.load` takes them."""
    from diptych.front.loading import load

    names = ("weights", "precision", "device", "share", "space", "backend")
    settings = {name: args[name] for name in names if name in args} | given
    model = load(spec, **settings)
    if "auto" in (settings.get("precision"), settings.get("backend")):
        say(f"{model.computed_by}: the fastest that is close enough to float32 here")
    return model
