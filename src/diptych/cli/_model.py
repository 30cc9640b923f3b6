"""The model of a verb, and how the command line names it."""

from contextlib import nullcontext
from typing import Any, Literal

from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import say, waiting

MODELS = "a RUN folder, tiny (included), openclip:NAME[/TAG], hf:REPO_OR_FOLDER, hf-lm:FOLDER or diffusers:FOLDER"
"""What `diptych.load` takes, for commands that measure or describe any model."""
EMBEDDERS = "a RUN folder, tiny (included), openclip:NAME[/TAG] or hf:REPO_OR_FOLDER"
"""Models that can embed, for commands that need embeddings."""


def add_weights(parser: Parser, section: str = "More") -> None:
    """Add `--weights`, for models of other libraries whose file is local."""
    parser.option(
        section,
        "--weights",
        metavar="FILE",
        help="local weights file for an openclip: or hf: model",
    )


def add_method_file(parser: Parser) -> None:
    """Add `--method`, for verbs that load a RUN."""
    parser.option(
        "More",
        "--method",
        metavar="FILE.py",
        help="for a RUN of a method of your own: its file, which is run",
    )


def add_precision(parser: Parser) -> None:
    """Add `--precision` and `--backend`, for verbs that only embed."""
    parser.option(
        "How",
        "--precision",
        type=Literal["float32", "bfloat16", "int8", "auto"],
        metavar="NAME",
        help="float32 (default), bfloat16, int8, or auto: the fastest that agrees with float32",
    )
    parser.option(
        "How",
        "--backend",
        type=Literal["torch", "openvino", "onnxruntime", "auto"],
        metavar="NAME",
        help="runtime that embeds: torch (default), openvino, onnxruntime, or auto: the fastest",
    )


def add_batch_size(parser: Parser, what: str = "images") -> None:
    """Add `--batch-size`, of images or `what` else a verb reads."""
    parser.option(
        "How",
        "--batch-size",
        type=int,
        least=1,
        metavar="N",
        help=f"{what} per batch (default: 64)",
    )


def add_exact(parser: Parser) -> None:
    """Add `--exact`, for verbs that read images."""
    parser.option(
        "How",
        "--exact",
        type=bool,
        help="decode JPEGs at full resolution (default: reduced if they are large)",
    )


def add_share(parser: Parser) -> None:
    """Add `--share`, for verbs that compare embeddings."""
    parser.option(
        "How",
        "--share",
        type=float,
        metavar="S",
        help="models with two projection heads: weight of the first one, from 0 to 1 (default: the "
        "model's)",
    )


def add_space(parser: Parser) -> None:
    """Add `--space`, for verbs that compare embeddings."""
    parser.option(
        "How",
        "--space",
        metavar="NAME",
        help="models with several embedding spaces: the one to use (default: the model's first)",
    )


def add_device(parser: Parser) -> None:
    """Add `--device` and `--method`, for verbs that compute with a model."""
    add_method_file(parser)
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
        help="run on Ray workers, of this machine (ray) or of a cluster (ray:auto, ray:HOST:PORT)",
    )


def load_model(spec: str, args: Namespace, **given: Any) -> Any:
    """Return the model of a spec with the options of the command line, or those `given` in their
    place, as `diptych.load` takes them."""
    from diptych.front.loading import load

    names = ("weights", "precision", "device", "share", "space", "backend", "method")
    settings = {name: args[name] for name in names if name in args} | given
    by = settings.get("backend", "torch")
    graphs = f"preparing {spec} for backend {by}, whose graphs are written the first time"
    with nullcontext() if by == "torch" else waiting(graphs):
        model = load(spec, **settings)
    if "auto" in (settings.get("precision"), settings.get("backend")):
        say(f"{model.computed_by}: the fastest that is close enough to float32 here")
    return model
