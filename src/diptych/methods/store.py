"""Models on disk: `save_model` writes model.safetensors and model.json; `load` reads them or a
model of another library.

model.json holds registry names and plain values only: method, its options, tower configs,
tokenizer, preprocessing, and the checksum of the weights. Both files are written to temporary names
in the same folder and then renamed over the old ones.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from diptych.data.tokenizers import Tokenizer
from diptych.data.tokenizers import from_dict as tokenizer_from
from diptych.data.volumes import AnyPreprocess, preprocess_from
from diptych.errors import InputError, brief, located, unknown
from diptych.files import read_json
from diptych.methods.make import NO_TOWER, Make
from diptych.methods.registry import cards, find, from_file, is_file, method_class
from diptych.models import pretrained
from diptych.models.causal_lm import CausalLM
from diptych.models.class_prompts import ClassPrompts
from diptych.models.delivered import Delivered
from diptych.models.device import find_device
from diptych.models.language import LanguageModel
from diptych.models.model import Model, TextModel
from diptych.models.multimodal import ContrastiveCaptioner, TwoPassCaptioner
from diptych.models.precision import PRECISIONS, set_precision
from diptych.models.saved import (
    FORMAT,
    METADATA,
    Saved,
    checksum,
    digest,
)
from diptych.models.saved import (
    save_model as save_model,  # what writes and what reads are both found here
)
from diptych.renamed import translated
from diptych.spec import check_record
from diptych.towers.dual import DualEncoder, renamed_entries


@dataclass(frozen=True, kw_only=True)
class Description:
    """The contents of model.json. `weights` is the checksum of model.safetensors (None in an
    unfinished run), `stored` the type that its floats were rounded to, `lent` the shipped models
    that have the weights of some parts, `training` the record of the training. `plain`, for a method
    given as a file, says that the model is two of diptych's towers and nothing else, and needs no file."""

    format: str
    diptych: str = ""
    method: str
    config: Mapping[str, Any]
    dual: Mapping[str, Any] | None
    lm: Mapping[str, Any] | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] | None
    tokenizer_fingerprint: str | None
    preprocess: Mapping[str, Any] | None
    training: Mapping[str, Any] = field(default_factory=dict)
    stored: Literal["float16"] | None = None
    lent: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    plain: bool = False
    weights: str | None = None


_REMEDY = "copy it again or resume the run"
SHIPPED = Path(pretrained.__file__).parent


def describe(
    method: str,
    config: Mapping[str, Any],
    delivered: nn.Module,
    tokenizer: Tokenizer | None,
    preprocess: AnyPreprocess | None,
) -> dict[str, Any]:
    """Return the contents of model.json without the checksum."""
    from diptych import __version__

    encoder = (
        delivered if isinstance(delivered, DualEncoder) else getattr(delivered, "encoder", None)
    )
    if not isinstance(encoder, DualEncoder):  # a part of the module's own
        encoder = None
    lm = delivered if isinstance(delivered, CausalLM) else getattr(delivered, "lm", None)
    return {
        "format": FORMAT,
        "diptych": __version__,
        "method": method,
        "config": dict(config),
        **({"plain": _is_plain(delivered)} if is_file(method) else {}),
        "dual": None if encoder is None else encoder.config(),
        "lm": None if lm is None else lm.config(),
        "kept": delivered.extra_state() if isinstance(delivered, Delivered) else {},
        "tokenizer": tokenizer.to_dict() if tokenizer else None,
        "tokenizer_fingerprint": tokenizer.fingerprint if tokenizer else None,
        "preprocess": preprocess.to_dict() if preprocess else None,
    }


def _is_plain(delivered: nn.Module) -> bool:
    """Whether a delivered module is nothing but towers of diptych."""
    if type(delivered) is not DualEncoder:
        return False
    towers = (getattr(delivered, side) for side in delivered.sides)
    return all(type(tower).__module__.startswith("diptych.") for tower in towers)


def preprocess_of(delivered: nn.Module) -> AnyPreprocess | None:
    """Return the preprocessing of a delivered module's images, None if it reads none."""
    if isinstance(delivered, DualEncoder) and "image" not in delivered.sides:
        return None
    holder = delivered if hasattr(delivered, "preprocess") else getattr(delivered, "image", None)
    return getattr(holder, "preprocess", None)


def read_description(folder: Path) -> dict[str, Any]:
    """Return model.json as a dict with all fields of `Description`.

    Raises InputError if it is missing, damaged or of another format.
    """
    return _described(_saved(folder), folder)


def read_prompts(run: str | Path) -> ClassPrompts:
    """Return the prompts that a run holds for its classes; no weights are read.

    Raises InputError if there is no such run, or it is unfinished or holds no prompts.
    """
    folder = Path(run).expanduser()
    description = read_description(folder)
    kept = description["kept"]
    if description["weights"] is None:
        raise _unfinished(folder)
    if not {"templates", "prompts"} <= kept.keys():
        raise InputError(
            f"{run} is a run of {description['method']} and holds no prompts of classes; name one that searched for "
            "them"
        )
    with _trusting_nothing(folder / "model.json"):
        return ClassPrompts.from_dict(kept)


def _described(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the fields of `Description`, with the method's options by their current names."""
    path = folder / "model.json"
    description = vars(Description(**check_record(Description, values, path, _REMEDY)))
    config = translated(description["method"], description["config"], path)
    return {**description, "config": config}


def _saved(folder: Path) -> dict[str, Any]:
    """Return the plain values of model.json, unchanged."""
    path = folder / "model.json"
    try:
        description = read_json(path, _REMEDY)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder} has no model.json; name a RUN that `diptych train` finished, openclip:NAME/TAG or hf:FOLDER"
        ) from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        found = (
            description.get("format")
            if isinstance(description, dict)
            else type(description).__name__
        )
        raise InputError(f"{path} is of format {brief(repr(found))}, this version reads {FORMAT!r}")
    return description


def load(
    spec: str | Path,
    weights: str | Path | None = None,
    precision: str = "float32",
    *,
    device: str = "cpu",
    share: float | None = None,
    space: str | None = None,
    backend: str = "torch",
    method: str | Path | None = None,
) -> Any:
    """Load a model as `diptych.load` does, but on the CPU where no device is given."""
    if precision not in (*PRECISIONS, "auto"):
        raise unknown("precision", precision, (*PRECISIONS, "auto"))
    if backend not in ("torch", "auto") and device == "auto":
        device = "cpu"
    place = find_device(device, precision)
    if method is not None:
        method_class(str(method))  # runs the file
    model = _load(spec, weights, None if method is None else find(str(method)).name)
    if isinstance(model, TextModel):
        if share is not None:
            model.set_share(share)
        if space is not None:
            model = model.space(space)
    elif share is not None or space is not None:
        what = "a share weighs the two heads" if space is None else "a space is"
        raise InputError(f"{what} of a dual encoder, which {spec} is not; leave it out")
    if backend == "torch":
        return set_precision(model.to(place), precision)
    from diptych.models.backends import set_backend  # imports what exports

    return set_backend(model.to(place), backend, precision)


def _load(spec: str | Path, weights: str | Path | None, method: str | None = None) -> Any:
    prefix = str(spec).split(":", 1)[0]
    if prefix in pretrained.LOADERS and ":" in str(spec):
        return _described_anew(pretrained.load(str(spec), weights=weights))
    place = str(spec).partition(":")[2]
    if place and weights is None and prefix in cards():
        return _published(prefix, place)
    ships = shipped().get(str(spec))
    folder = ships or Path(spec).expanduser()
    if weights is not None:
        raise InputError(
            f"--weights (weights=) goes with openclip: or hf: models; {spec} has its own"
        )
    if not folder.is_dir():
        known = ", ".join(
            [*shipped(), "openclip:NAME/TAG", "hf:FOLDER", "hf-lm:FOLDER", "diffusers:FOLDER"]
        )
        raise InputError(f"there is no model at {str(spec)!r}; name a RUN folder, {known}")
    return _load_run(folder, str(spec) if ships else str(folder), method)


def _described_anew(model: Any) -> Any:
    """The model of another library, with the description that `save` writes: that of a run of clip,
    of coca, of mammut, or of a language model."""
    if type(model) in (Model, TextModel):
        preprocess = getattr(model, "preprocess", None)
        model.description = describe("clip", {}, model.encoder, model.tokenizer, preprocess)
    elif isinstance(captioner := getattr(model, "delivered", None), ContrastiveCaptioner):
        own: dict[str, Any] = {"max_tokens": captioner.longest}
        if isinstance(captioner, TwoPassCaptioner):
            method = "mammut"
        else:
            method = "coca"
            decoder = captioner.lm.config()["decoder"]
            own |= {"pooler": "none", "decoder": decoder, "directions": "mean"}
        model.description = describe(method, own, captioner, model.tokenizer, model.preprocess)
    elif isinstance(model, LanguageModel):
        model.description = describe("language_model", {}, model.lm, model.tokenizer, None)
    return model


def _published(method: str, place: str) -> Any:
    """The model of weights that were published for a method."""
    module, tokenizer, config = method_class(method).published(Path(place).expanduser())
    preprocess: Any = preprocess_of(module)
    model = module.to_model(tokenizer, preprocess, f"{method}:{place}")
    model.description = describe(method, config, module, tokenizer, preprocess)
    return model


def shipped() -> dict[str, Path]:
    """Return the models that ship with the package, by name; `make tiny` writes them."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob("*/model.json"))}


def _load_run(folder: Path, name: str, method: str | None) -> Any:
    values = _saved(folder)
    description = _described(values, folder)
    if method is not None and is_file(description["method"]):
        description["method"] = method
    path = folder / "model.safetensors"
    if description["weights"] is None or not path.exists():
        raise _unfinished(folder)
    if checksum(path) != description["weights"]:
        raise InputError(
            f"{path} is not the file that model.json describes (checksum differs); copy both again"
        )
    if (saved := _saved_digest(path)) is None:  # of a version that kept none
        with _trusting_nothing(folder / "model.json"):
            return _loaded(description, folder, name)
    if saved != digest(values):
        raise InputError(
            f"{folder / 'model.json'} is not the description that {path.name} was saved with (towers, tokenizer or "
            "preprocessing differ), and would give other embeddings; copy both files again from one run"
        )
    return _loaded(description, folder, name)


def _unfinished(folder: Path) -> InputError:
    return InputError(
        f"{folder} holds an unfinished run; go on with `diptych train … --out {folder} --resume`"
    )


def _loaded(description: Mapping[str, Any], folder: Path, name: str) -> Any:
    tokenizer = tokenizer_from(description["tokenizer"]) if description["tokenizer"] else None
    if tokenizer and tokenizer.fingerprint != description["tokenizer_fingerprint"]:
        raise InputError(
            f"the tokenizer in {folder / 'model.json'} gives other ids than the one trained with "
            "(fingerprint differs); install the version it was trained with, or train anew"
        )
    module = rebuild(description, tokenizer).eval()
    load_state(
        module,
        folder / "model.safetensors",
        half=description["stored"] == "float16",
        lent=_borrowed(description["lent"], folder),
    )
    model = to_model(module, tokenizer, description["preprocess"], name=name)
    if isinstance(model, Saved):
        model.description = description
    if isinstance(model, TextModel):
        model.record = {"method": description["method"], **description["training"]}
    return model


@contextmanager
def _trusting_nothing(path: Path) -> Iterator[None]:
    """Report any error of an unverified description as an InputError that names the file."""
    try:
        with located(str(path)):
            yield
    except InputError:
        raise
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(
            f"{path} describes no model ({type(error).__name__}: {brief(error)}); copy it again or resume the run"
        ) from error


def _saved_digest(path: Path) -> str | None:
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get(METADATA)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a readable safetensors file ({brief(error)}); copy it again"
        ) from None


def to_model(
    module: nn.Module,
    tokenizer: Tokenizer | None,
    preprocess: Mapping[str, Any] | None,
    *,
    name: str,
) -> Any:
    """Wrap a delivered module in a model that accepts images and strings; `preprocess` is in plain
    values."""
    images: Any = preprocess_from(preprocess) if preprocess else None
    if isinstance(module, Delivered):
        return module.to_model(tokenizer, images, name)
    if isinstance(module, CausalLM):
        assert tokenizer is not None, "a language model is made for a tokenizer"
        return LanguageModel(module, tokenizer, name=name)
    assert isinstance(module, DualEncoder)
    if "image" not in module.sides:
        return TextModel(module, tokenizer, name=name)
    assert images is not None, "an image tower has a preprocessing"
    return Model(module, tokenizer, images, name=name)


def rebuild(description: Mapping[str, Any], tokenizer: Tokenizer | None) -> Any:
    """Return the delivered module of a description, with new weights."""
    dual = description["dual"]
    method = description["method"]
    if is_file(method) and description["plain"]:
        return DualEncoder.from_config(dual)
    # a model never says what code is run
    cls = from_file(method) if is_file(method) else method_class(method)
    if cls is None:
        raise InputError(
            f"this model is built by the method in {method}, which runs only if it is named; name that file with "
            "--method FILE.py (method=), or give its module an entry point (docs/add_a_method.md)"
        )
    if dual is None:
        text = (description["lm"] or {}).get("text", NO_TOWER)
        make = Make(image=NO_TOWER, text=text, embed_dim=0, tokenizer=tokenizer)
    else:
        make = Make(
            image=dual["image"] or NO_TOWER,
            text=dual["text"] or NO_TOWER,
            embed_dim=dual["embed_dim"],
            tokenizer=tokenizer,
            dual=dual,
            written_by=description["lm"],
        )
    module: Any = cls.of(cls.configure(description["config"]), make).deliver()
    if isinstance(module, Delivered):
        module.load_extra_state(description["kept"])
    return module


def without_lent(
    description: Mapping[str, Any], state: Mapping[str, Tensor], lent: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a description and a state without the weights that shipped models have, in float16:
    `load` takes them from there. `lent` names the shipped model of each part, by its prefix.

    Weights that differ from the shipped ones stay in the state.
    """
    kept: dict[str, Tensor] = dict(state)
    named: dict[str, dict[str, str]] = {}
    for part, name in lent.items():
        path = shipped()[name] / "model.safetensors"
        named[part] = {"model": name, "weights": checksum(path)}
        for own, value in load_file(path).items():
            mine = kept.get(f"{part}.{own}")
            if mine is not None and torch.equal(mine.to(value.dtype), value):
                del kept[f"{part}.{own}"]
    return {**description, "lent": named}, kept


def _borrowed(lent: Mapping[str, Mapping[str, str]], folder: Path) -> dict[str, Tensor]:
    """Return the weights of the shipped models that have those of parts, by their names in the
    module.

    Raises InputError where this version ships another model.
    """
    found: dict[str, Tensor] = {}
    for part, kept in lent.items():
        ships = shipped().get(kept["model"])
        if ships is None or checksum(ships / "model.safetensors") != kept["weights"]:
            raise InputError(
                f"{folder} has its {part} from {kept['model']}, and this version ships another one; load it with "
                "the version that it came with"
            )
        weights = load_file(ships / "model.safetensors")
        found |= {f"{part}.{name}": value for name, value in weights.items()}
    return found


def load_state(
    module: nn.Module,
    path: Path,
    *,
    half: bool = False,
    lent: Mapping[str, Tensor] | None = None,
) -> None:
    """Load a safetensors file into a module; `half` is that of `save_model`. What the file lacks is
    taken from `lent`.

    Raises InputError that names what is missing, unexpected, or of another shape or dtype.
    """
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error})") from None
    own = module.state_dict()
    state = {name: value for name, value in (lent or {}).items() if name in own} | state
    if half:
        state = {
            name: value.to(torch.get_default_dtype()) if value.dtype == torch.float16 else value
            for name, value in state.items()
        }
    state = renamed_entries(state, own)
    if isinstance(module, Delivered):
        state = module.current(state)
    problems = [f"lacks {name}" for name in own.keys() - state.keys()]
    problems += [f"has the unknown {name}" for name in state.keys() - own.keys()]
    for name in own.keys() & state.keys():
        if own[name].shape != state[name].shape:
            problems.append(
                f"{name} is {tuple(state[name].shape)} where the model has {tuple(own[name].shape)}"
            )
        elif own[name].dtype != state[name].dtype:
            problems.append(f"{name} is {state[name].dtype} where the model has {own[name].dtype}")
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise InputError(f"{path} does not fit the model: it {sorted(problems)[0]}{more}")
    with torch.no_grad():
        module.load_state_dict(state)
