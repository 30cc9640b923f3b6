"""Encoders of texts alone, for `hf:`: any encoder of transformers, with the pooling and the
projection that the modules of sentence-transformers beside it describe.

    FOLDER/modules.json               Transformer, Pooling, then Dense, Normalize or neither
    FOLDER/1_Pooling/config.json      what `pooled` is; mean where there is no modules.json
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.data.tokenizers import Tokenizer, from_folder
from diptych.data.tokenizers.hf import has_tokenizer, quiet
from diptych.errors import InputError, brief
from diptych.models.model import TextModel
from diptych.models.pretrained.files import read_json, read_weights
from diptych.towers.build import text_tower
from diptych.towers.dual import DualEncoder

log = logging.getLogger(__name__)

POOLING = {
    "mean": "mean",
    "mean_tokens": "mean",
    "cls": "first",
    "cls_token": "first",
    "lasttoken": "eot",
}
"""sentence-transformers' names, in the form of both of its versions, and ours."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the parts of an encoder are: the transformer's folder, its pooling, and the folder of a
    projection if there is one."""

    transformer: Path
    pooling: str = "mean"
    dense: Path | None = None


def load(folder: Path, where: str) -> TextModel:
    """Load the encoder of a folder; `where` names it in messages.

    Without modules.json texts are pooled by their mean, with a warning. Raises InputError for
    modules, poolings and projections that are not supported, and for a folder that transformers
    cannot read.
    """
    layout = layout_of(folder, where)
    tokenizer = _tokenizer(layout.transformer)
    with quiet():
        tower: Any = text_tower(
            {"name": "hf", "folder": str(layout.transformer), "pooling": layout.pooling},
            context=tokenizer.context,
            pad=tokenizer.pad,
            eot=tokenizer.eot,
        )
    projection: dict[str, Tensor] = {}
    spec = "none"
    embed_dim = tower.width
    if layout.dense is not None:
        projection, spec = _projection(layout.dense, where)
        embed_dim = len(projection["weight"])
    encoder = DualEncoder(None, tower, embed_dim, text_projection=spec)
    assert encoder.text_projection is not None
    try:
        encoder.text_projection.load_state_dict(projection)
    except RuntimeError as error:
        raise InputError(f"{layout.dense} does not fit the transformer ({brief(error)})") from None
    return TextModel(encoder.eval(), tokenizer, name=where)


def layout_of(folder: Path, where: str) -> Layout:
    """Return where the parts of an encoder are, by its modules.json if there is one."""
    listed = _modules(folder)
    if not listed:
        log.warning("%s has no modules.json: texts are pooled by the mean of their tokens", where)
        return Layout(transformer=folder)
    kinds = [kind for kind, _ in listed]
    rest = [kind for kind in kinds[2:] if kind != "Normalize"]
    if kinds[:2] != ["Transformer", "Pooling"] or rest not in ([], ["Dense"]):
        raise InputError(
            f"{where} is not supported: its modules are {', '.join(kinds)}; supported are Transformer, "
            "Pooling, and then Dense, Normalize or neither"
        )
    _check_similarity(folder, "Normalize" in kinds, where)
    places = dict(listed)
    return Layout(
        transformer=folder / places["Transformer"],
        pooling=_pooling(folder / places["Pooling"] / "config.json", where),
        dense=folder / places["Dense"] if rest else None,
    )


def check_pair(folder: Path, where: str) -> None:
    """Raise InputError unless the modules of a dual encoder's folder, if it names any, are the
    model and at most its normalisation."""
    kinds = [kind for kind, _ in _modules(folder)]
    if kinds[1:] not in ([], ["Normalize"]):
        raise InputError(
            f"{where} is not supported: its modules are {', '.join(kinds)}; supported are a CLIPModel or "
            "Transformer, and then Normalize or nothing"
        )
    _check_similarity(folder, "Normalize" in kinds, where)


def _modules(folder: Path) -> list[tuple[str, str]]:
    """The modules of modules.json in their order, none if there is no such file: the names of their
    classes, and their folders.

    Raises InputError if it names folders outside its own.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return []
    listed = []
    for each in read_json(path, list):
        place = Path(str(each.get("path")))
        if place.is_absolute() or ".." in place.parts:
            raise InputError(
                f"{path} names files outside its folder; copy the model from its source again"
            )
        listed.append((str(each.get("type")).rpartition(".")[2], str(place)))
    return listed


def transformer_of(folder: Path) -> Path:
    """The folder of the first module, which is the transformer; the folder itself without
    modules.json."""
    modules = _modules(folder)
    return folder / modules[0][1] if modules else folder


def _pooling(path: Path, where: str) -> str:
    """Our name of the pooling in a config of either form."""
    config = read_json(path)
    modes = config.get("pooling_mode")
    if modes is None:
        prefix = "pooling_mode_"
        modes = [
            name.removeprefix(prefix) for name in config if name.startswith(prefix) and config[name]
        ]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in POOLING:
        raise InputError(
            f"{where} is not supported: it pools by {' and '.join(modes) or 'nothing'}; supported are mean, cls "
            "and lasttoken"
        )
    return POOLING[modes[0]]


def _check_similarity(folder: Path, normalized: bool, where: str) -> None:
    """Raise InputError if texts are compared by other than the cosine, or get a prompt."""
    path = folder / "config_sentence_transformers.json"
    config = read_json(path) if path.is_file() else {}
    similarity = config.get("similarity_fn_name") or "cosine"
    if similarity != "cosine" and not (normalized and similarity == "dot"):
        raise InputError(
            f"{where} is not supported: it compares texts by {similarity!r}, and embeddings here are unit vectors"
        )
    if config.get("default_prompt_name"):
        raise InputError(
            f"{where} is not supported: it puts the prompt {config['default_prompt_name']!r} before each text"
        )


def _tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer, with the length that sentence-transformers cuts texts to."""
    if not has_tokenizer(folder):  # transformers would make an empty one
        raise InputError(f"{folder} has no tokenizer files, such as tokenizer.json; copy them too")
    path = folder / "sentence_bert_config.json"
    config = read_json(path) if path.is_file() else {}
    tokenizer = from_folder(folder, context=config.get("max_seq_length"), local=True)
    most = read_json(folder / "config.json").get("max_position_embeddings")
    if most is not None and tokenizer.context > most:
        tokenizer = from_folder(folder, context=most, local=True)
    if config.get("do_lower_case") and tokenizer.ids("A B É") != tokenizer.ids("a b é"):
        raise InputError(
            f"{path} has do_lower_case=true, which its tokenizer does not do; only false is supported"
        )
    return tokenizer


def _projection(folder: Path, where: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of a Dense module, and the spec of our head."""
    activation = read_json(folder / "config.json").get("activation_function", "").rpartition(".")[2]
    if activation != "Identity":
        raise InputError(
            f"{where} is not supported: its projection has the activation {activation or 'Tanh'}; a linear one is"
        )
    state = {
        name.removeprefix("linear."): value.float() for name, value in read_weights(folder).items()
    }
    if "weight" not in state:
        raise InputError(f"{folder} holds no linear.weight; copy the model again")
    return state, "affine" if "bias" in state else "linear"
