"""The resolved config of a run: plain values and registry names, stored in RUN/config.yaml."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml

from diptych.errors import InputError, shortened, unknown
from diptych.files import parsed, write_atomic
from diptych.methods.adapters import RATE, adapter
from diptych.methods.base import Preset, Recipe
from diptych.methods.make import NO_TOWER
from diptych.methods.registry import find, is_file, method_class
from diptych.models.export import Form, form_for, targets
from diptych.models.saved import checksum
from diptych.renamed import current, translated
from diptych.spec import AtLeast, Spec, check, configure, parse, split_options, split_specs
from diptych.towers import build
from diptych.training import optim
from diptych.training.options import Options
from diptych.training.schedule import factor

_MOST = 1 << 22  # bytes of a config
_MOST_VALUES = 100_000
# Engine options may change when a run is resumed; what affects the result may not. Files of methods are
# compared by content.
_MAY_DIFFER = {"options", "files"}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run. `data` maps streams to source specs; `weights` is the
    weight file of the model of another library that `init` names; `config` holds the method's
    options, `added` the methods whose losses are added to it (`methods.mix`), and `adapt` what is
    trained in place of the towers' weights (`methods.adapters`). `exportable` is a target of
    `export` that has to hold the model. `files` are the SHA-256 of the methods that are given as
    files, by path."""

    method: str
    data: Mapping[str, str]
    val: str | None = None
    guard: str | None = None
    preset: str = "small"
    image_tower: str = ""
    text_tower: str = ""
    tokenizer: str = ""
    embed_dim: Annotated[int, AtLeast(0)] = 0
    exportable: str | None = None
    init: str | None = None
    weights: str | None = None
    added: tuple[str, ...] = ()
    adapt: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe = Recipe()
    options: Options = Options()

    def __post_init__(self) -> None:
        check(RunConfig, vars(self), "the run")


def resolve(
    method: str,
    data: Mapping[str, str],
    *,
    preset: str = "small",
    val: str | None = None,
    guard: str | None = None,
    image_tower: str | None = None,
    text_tower: str | None = None,
    tokenizer: str | None = None,
    embed_dim: int | None = None,
    exportable: str | None = None,
    init: str | None = None,
    weights: str | None = None,
    added: Sequence[str] = (),
    adapt: str | None = None,
    config: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Return the config with the preset's values where none are given. Raises InputError for
    anything that does not exist or does not fit together."""
    cls = method_class(method)
    chosen = cls.preset(preset)
    if (form := form_of(method, exportable)) is not None and not init:
        chosen = _exportable(chosen, form, image_tower)
    if init and (image_tower or text_tower or tokenizer or embed_dim):
        raise InputError(
            f"--init {init} brings its own towers and tokenizer; leave out --image-tower, --text-tower, "
            "--tokenizer and --embed-dim, or leave out --init"
        )
    if weights and not init:
        raise InputError(
            f"--weights {weights} are those of a model that --init names, such as openclip:ViT-B-32; give that too"
        )
    if chosen.image == NO_TOWER and image_tower:
        raise InputError(f"{method} reads texts alone; leave out --image-tower")
    if not chosen.embed_dim and embed_dim:
        raise InputError(f"{method} embeds nothing; leave out --embed-dim")
    merged = {**chosen.config, **(config or {})}
    cls.configure(merged)
    if cls.continues(merged) and not init:
        so = "" if cls.adapts else " with these options"
        raise InputError(
            f"{method}{so} adapts a model that has learnt already; name one with --init, such as tiny, a "
            "RUN or openclip:ViT-B-32/laion2b_s34b_b79k"
        )
    given = dict(recipe or {})
    if adapt:
        _check_adapter(adapt, method, init)
        given = {"lr": RATE * chosen.recipe.lr, **given}
    if "epochs" in given and "steps" not in given:
        given["steps"] = None
    reported = configure(Recipe, {**asdict(chosen.recipe), **given}, "recipe")
    if reported.select and not val:
        raise InputError(
            f"--select {reported.select} is a number of the validation; give its data with --val SOURCE"
        )
    reported = replace(reported, optimizer=optim.recorded(reported.optimizer))
    factor(
        0, 1, schedule=reported.schedule
    )  # raises InputError for an unknown schedule, before anything is written
    name = find(method).name  # the whole path for a method given as a file
    others = [_placed(spec) for spec in added]
    return RunConfig(
        method=name,
        data=dict(data),
        val=val,
        guard=guard,
        preset=preset,
        image_tower="" if init else image_tower or chosen.image,
        text_tower="" if init else text_tower or chosen.text,
        tokenizer="" if init else tokenizer or chosen.tokenizer,
        embed_dim=0 if init else embed_dim or _dimension(cls, chosen, text_tower),
        exportable=exportable,
        init=init,
        weights=weights,
        added=tuple(others),
        adapt=adapt,
        files=file_digests([name, *others]),
        config=dict(cls.resolve_options(merged)),
        recipe=reported,
        options=configure(Options, dict(options or {}), "the run"),
    )


def _placed(spec: str) -> str:
    """Return the spec of an added method, with the whole path of one that is given as a file."""
    name, options = split_options(spec)
    return f"{find(name).name}{options}" if is_file(name) else spec


def file_digests(specs: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of the methods among specs that are files, by path."""
    names = [split_options(spec)[0] for spec in specs]
    return {name: checksum(Path(name)) for name in names if is_file(name)}


def _dimension(cls: Any, preset: Preset, text_tower: str | None) -> int:
    """The dimension of the space where none is given."""
    if not cls.text_space or text_tower is None:
        return preset.embed_dim
    with torch.device("meta"):
        return build.text_tower(text_tower, vocab_size=64, context=8).width


def _check_adapter(adapt: str, method: str, init: str | None) -> None:
    """Raise InputError if an adapter does not exist or does not suit the method."""
    adapter(adapt)
    if method_class(method).adapts:
        raise InputError(
            f"{method} adapts a model in its own way; leave out --adapt, or train a method on pairs, such as clip"
        )
    if not init:
        raise InputError(
            f"--adapt {adapt} keeps the weights of a trained model; name one with --init, such as tiny, a RUN or "
            "openclip:ViT-B-32/laion2b_s34b_b79k"
        )


def form_of(method: str, exportable: str | None) -> Form | None:
    """Return the form of towers that a target of `export` asks of a method, None if any will do.

    Raises InputError for an unknown target.
    """
    if exportable is None:
        return None
    if exportable not in targets():
        raise unknown("target of --exportable", exportable, targets())
    presets = method_class(method).presets
    return form_for(exportable, presets.get("paper", Preset()).image)


def _exportable(preset: Preset, form: Form, image_tower: str | None) -> Preset:
    """Return a preset with the towers of a form at its own sizes; one of images or texts alone
    stays as it is."""
    if NO_TOWER in (preset.image, preset.text):
        return preset
    image = image_tower or form.image_tower(preset.image)
    unprojected = form.projections.get("image_projection") == "none"
    width = parse(image).options.get("width", preset.embed_dim)
    return replace(
        preset,
        image=image,
        text=form.text_tower(preset.text),
        tokenizer=form.tokenizer(preset.tokenizer),
        embed_dim=width if unprojected else preset.embed_dim,
    )


def preset_for(method: str, init: str | None) -> str:
    """Return the default preset: `tune` if training starts from a trained model and the method has
    it, except for those that only adapt a model."""
    cls = method_class(method)
    tunes = init and not cls.adapts and "tune" in getattr(cls, "presets", ())
    return "tune" if tunes else "small"


def plain(config: Any) -> Any:
    """Return a config as dicts, lists and plain values."""
    if hasattr(config, "__dataclass_fields__"):
        return {item.name: plain(getattr(config, item.name)) for item in fields(config)}
    if isinstance(config, Mapping):
        return {str(key): plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [plain(value) for value in config]
    return config


def write(config: RunConfig, path: Path) -> None:
    """Write config.yaml."""
    text = yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping, with renamed options translated to their new names.

    Raises InputError if it holds no mapping.
    """
    try:
        tree = parsed(path, "copy it again, or begin a new run", yaml.safe_load, _MOST)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"there is no {path}; begin the run without --resume") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path} holds no options; write lines such as `lr: 0.001`")
    if _is_larger(tree, _MOST_VALUES):
        raise InputError(
            f"{path} holds more than {_MOST_VALUES:,} values, aliases counted each time; write fewer"
        )
    return _with_current_names(tree, path)


def _with_current_names(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a run's config with the new names of renamed options, of its method and of those added
    to it."""
    found = dict(tree)
    if isinstance(tree.get("method"), str) and isinstance(tree.get("config"), dict):
        found["config"] = translated(tree["method"], tree["config"], path)
    for key in ("val", "guard"):
        if isinstance(tree.get(key), str):
            found[key] = _source_with_current_names(tree[key], path)
    if isinstance(tree.get("data"), dict):
        found["data"] = {
            stream: _source_with_current_names(spec, path) if isinstance(spec, str) else spec
            for stream, spec in tree["data"].items()
        }
    if isinstance(tree.get("added"), list):
        found["added"] = [_spec_with_current_names(spec, path) for spec in tree["added"]]
    return found


def _source_with_current_names(spec: str, path: Path) -> str:
    """Return a source spec, or several separated by commas, with the current names of prefixes and
    options."""
    parts = []
    for part in split_specs(spec):
        prefix, colon, rest = part.partition(":")
        parts.append(
            _spec_with_current_names(f"{current('source', prefix, path)}{colon}{rest}", path)
        )
    return ",".join(parts)


def _spec_with_current_names(spec: Any, path: Path) -> Any:
    if not isinstance(spec, str) or not spec:
        return spec
    parsed = parse(spec)
    options = translated(parsed.name, parsed.options, path)
    return spec if options == parsed.options else str(Spec(parsed.name, options))


def _is_larger(tree: Any, limit: int) -> bool:
    """Whether a tree has more than `limit` values; YAML aliases can make a few lines arbitrarily
    large."""
    rest = [tree]
    count = 0
    while rest and count <= limit:
        value = rest.pop()
        count += 1
        if isinstance(value, dict | list):
            rest += value.values() if isinstance(value, dict) else value
    return count > limit


def check_same(config: RunConfig, path: Path) -> None:
    """Raise InputError if the run in `path` was begun with another config, naming what differs."""
    old = read(path)
    found = old.get("files")
    files = {name: str(found[name]) for name in found} if isinstance(found, dict) else {}
    new = _moved_back(plain(config), files)
    seed = ("options", "seed")
    differing = [name for name in new if name not in _MAY_DIFFER and old.get(name) != new[name]]
    details = [
        f"{name} was {_shown(_at(old, name))}, is now {_shown(_at(new, name))}"
        for top in differing
        for name in _leaves(top, old.get(top), new[top])
    ]
    details += [
        f"{name} has changed"
        for name, digest in new["files"].items()
        if files.get(name, digest) != digest
    ]
    if _at(old, ".".join(seed)) != _at(new, ".".join(seed)):
        details.append(f"seed was {_at(old, 'options.seed')}, is now {_at(new, 'options.seed')}")
    if details:
        raise InputError(
            f"cannot resume {path.parent} with another config: {'; '.join(details)}. "
            "Give the old values, or begin a new run with another --out"
        )


def resume_command(config: Mapping[str, Any], out: str | Path) -> str:
    """Return the command that goes on with a run, given its plain config. It names the methods that
    are files, since no config may.

    >>> resume_command({"method": "mine.py", "added": ["clip", "hinge.py:margin=0.3"]}, "run")
    'diptych train mine.py --with clip --with hinge.py:margin=0.3 --resume --out run'
    """
    method = str(config.get("method"))
    added = [str(spec) for spec in config.get("added") or ()]
    words = [method] if is_file(method) else []
    if any(is_file(split_options(spec)[0]) for spec in added):
        words += [word for spec in added for word in ("--with", spec)]
    return shlex.join(["diptych", "train", *words, "--resume", "--out", str(out)])


def _moved_back(new: dict[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """Return a config with the paths in `files` of the methods' files that have the same content,
    since a file that was moved is the same method."""
    before = {digest: name for name, digest in files.items()}
    places = {
        name: name if files.get(name) == digest else before.get(digest, name)
        for name, digest in new["files"].items()
    }
    added = [split_options(spec) for spec in new["added"]]
    return {
        **new,
        "method": places.get(new["method"], new["method"]),
        "added": [f"{places.get(name, name)}{options}" for name, options in added],
        "files": {places[name]: digest for name, digest in new["files"].items()},
    }


def _leaves(prefix: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = dict.fromkeys([*old, *new])
        return [
            leaf
            for name in names
            if old.get(name) != new.get(name)
            for leaf in _leaves(f"{prefix}.{name}", old.get(name), new.get(name))
        ]
    return [prefix]


def _shown(value: Any) -> Any:
    """A value in a message; of a program its hash."""
    return shortened(optim.title(value)) if isinstance(value, str) else value


def _at(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree
