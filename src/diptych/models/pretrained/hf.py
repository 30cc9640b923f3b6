"""Dual encoders of transformers, BLIP-2's contrastive pair (`blip2`), and encoders of texts alone
(`sentences`): `hf:REPO` from the hub, `hf:FOLDER` from disk.

`hf_families` lists the dual encoders. A side that our own `vit` or `text` computes exactly is built
from config.json, and the weights are loaded into it; any other side is the module of transformers.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Clip, Tokenizer, from_folder
from diptych.data.tokenizers.hf import has_tokenizer, quiet
from diptych.errors import InputError, brief, some, unknown
from diptych.models.model import Model, TextModel
from diptych.models.multivector import MultiVectorModel
from diptych.models.pretrained import sentences
from diptych.models.pretrained.blip2 import Blip2Pair
from diptych.models.pretrained.convert import fill, square
from diptych.models.pretrained.files import NAMES, licence, read_json, read_weights
from diptych.models.pretrained.hf_families import ACTIVATION, FAMILIES, REFUSED, Family
from diptych.models.pretrained.hf_images import preprocess_of
from diptych.towers import hf as foreign

log = logging.getLogger(__name__)

_MODULES = {"image": "vision_model", "text": "text_model"}
"""Where the models of transformers have the modules of their sides."""


def load(name: str, weights: Path | None = None) -> TextModel | MultiVectorModel:
    """Load the model of a folder or a hub repository; `weights` is a file or folder of other
    weights.

    Missing preprocessor or tokenizer files are replaced by the standard ones of the family, with a
    warning. Any other model with a vocabulary loads as an encoder of texts alone. Raises InputError
    for a model that cannot be fetched, does not fit its weights, or is not supported.
    """
    where = f"hf:{name}"
    folder = (
        weights
        if weights is not None and weights.is_dir()
        else _folder(name, with_weights=weights is None)
    )
    given = folder
    folder = sentences.transformer_of(folder)
    source = folder if weights is None or weights.is_dir() else weights
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} has no config.json; name a folder in transformers' layout or a hub repository"
        )
    kind = _kind(folder, where)
    if kind not in FAMILIES:
        if source != folder:
            raise InputError(
                f"{where} is an encoder of texts, whose weights are in its own folder; name that alone"
            )
        model = sentences.load(given, where)
        model.record = {"licence": licence(given)}
        return model
    sentences.check_pair(given, where)
    family = FAMILIES[kind]
    config = _config(folder)
    if family.several:
        return _several(family, config, folder, source, where)
    image_size = getattr(config.vision_config, "image_size", None) if family.image else None
    size = square(image_size, where) if image_size else family.standard.get("size", 224)
    preprocess = preprocess_of(folder, family, size, where)
    tokenizer = _tokenizer(folder, family, config.text_config, where)
    dual = _dual(family, config, preprocess, tokenizer, where)
    about = f"{where} with the weights {source}"
    if family.own:
        encoder = fill(dual, read_weights(source), family.rules, about)
    else:
        whole = _whole(family, config, source, about)
        modules = {
            side: getattr(whole, name)
            for side, name in _MODULES.items()
            if getattr(family, side) is None
        }
        foreign = tuple(f"{_MODULES[side]}." for side in modules)
        state = {
            key: value.detach()
            for key, value in whole.state_dict().items()
            if not key.startswith(foreign)
        }
        encoder = fill(dual, state, family.rules, about, modules)
    model = Model(encoder, tokenizer, encoder.image.preprocess, name=where)
    model.record = {"licence": licence(given)}
    return model


def _several(
    family: Family, config: Any, folder: Path, source: Path, where: str
) -> MultiVectorModel:
    """The model of a family whose images have several vectors.

    Raises InputError for one of its type without the contrastive pair, and for a tokenizer or
    preprocessing of another model.
    """
    built = config.architectures or [family.model]
    if family.model not in built:
        raise InputError(
            f"{where} is a {built[0]}, which has no contrastive pair; name a {family.model}, such as "
            f"hf:{family.example}"
        )
    size = square(config.vision_config.image_size, where)
    preprocess = preprocess_of(folder, family, size, where)
    _check_size(preprocess, size, where)
    tokenizer = _tokenizer(folder, family, config.qformer_config, where)
    words = config.qformer_config.vocab_size
    known = max(words, (config.image_token_index or 0) + 1)  # no text has the image's token
    if tokenizer is not None and tokenizer.vocab_size > known:
        raise InputError(
            f"{where}: it has {words} words, its tokenizer {tokenizer.vocab_size}; use the tokenizer it was "
            "trained with"
        )
    whole = _whole(family, config, source, f"{where} with the weights {source}")
    return MultiVectorModel(Blip2Pair(whole, preprocess).eval(), tokenizer, name=where)


def _whole(family: Family, config: Any, source: Path, where: str) -> nn.Module:
    """The model of transformers with the weights of a file or folder, float32.

    Raises InputError if they do not fit.
    """
    import transformers

    config.dtype = None
    cls = getattr(transformers, family.model)
    state = read_weights(source)
    if family.divisor:  # published weights may leave it out
        state.setdefault("temperature", torch.tensor(config.temperature_init_value))
    try:
        with quiet():
            model, found = cls.from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True
            )
    except Exception as error:  # transformers raises many kinds
        raise InputError(f"{where}: {brief(error)}; name the model of these weights") from None
    lacking = sorted(name for name in found["missing_keys"] if ".pooler." not in name)
    if lacking:
        raise InputError(f"{where} lacks {some(lacking)}; name the model of these weights")
    unknown_names = sorted(found["unexpected_keys"])
    if unknown_names:
        raise InputError(
            f"{where} has the unknown {some(unknown_names)}; name the model of these weights"
        )
    return model.float()


def _kind(folder: Path, where: str) -> str:
    """The model type in config.json. Raises InputError for one that transformers does not have, and
    for a model of several sides that is not supported."""
    values = read_json(folder / "config.json")
    kind = str(values.get("model_type"))
    try:
        from transformers import CONFIG_MAPPING
    except ImportError:
        raise InputError("hf: models need transformers; pip install 'diptych[language]'") from None
    if kind not in CONFIG_MAPPING:
        raise unknown(f"model type of {where}", kind, [*FAMILIES, "bert"])
    sided = any(key.startswith(("vision_", "image_")) for key in values)
    if kind in REFUSED or (kind not in FAMILIES and sided):
        why = REFUSED.get(kind, f"its model type is {kind}")
        titles = ", ".join(family.title for family in FAMILIES.values())
        raise InputError(
            f"{where} is not supported: {why}; supported are {titles}, and encoders of texts alone"
        )
    return kind


def _folder(name: str, with_weights: bool) -> Path:
    """The local folder `name`, or a snapshot of the hub's repository."""
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name:
        raise InputError(
            f"there is no folder {name!r}; name a folder in transformers' layout or a hub repository"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError(
            "hf: models from the hub need huggingface_hub; pip install 'diptych[language]'"
        ) from None
    wanted = ["*.json", "*.txt", "*.model", "README.md"]
    weights = ["model*.safetensors", "?_*/*.safetensors", "*_Dense/*"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted + weights * with_weights))
        place = sentences.transformer_of(folder)
        if (
            with_weights
            and not any((place / file).is_file() for file in NAMES)
            and not any(place.glob("*.index.json"))
        ):
            snapshot_download(name, allow_patterns=["pytorch_model*.bin", "?_*/pytorch_model*.bin"])
    except Exception as error:  # the network raises many kinds
        raise InputError(
            f"the hub's repository {name!r} cannot be fetched ({brief(error)}); "
            "fetch it elsewhere and name its folder: --weights FOLDER (weights=)"
        ) from error
    return folder


def _config(folder: Path) -> Any:
    """transformers' config, which adds the defaults that config.json leaves out."""
    from transformers import AutoConfig

    try:
        with quiet():
            return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # its validation raises many kinds
        raise InputError(f"{folder / 'config.json'} is not a config ({brief(error)})") from None


def _dual(
    family: Family, config: Any, preprocess: Preprocess, tokenizer: Tokenizer | None, where: str
) -> dict[str, Any]:
    """The config of the dual encoder."""
    image = _image(family, config.vision_config, preprocess, where)
    text = _text(family, config.text_config, tokenizer, where)
    scale: dict[str, Any] = {"clamp": None if family.bias else [1.0, 100.0]}
    if family.divisor:
        scale = {"form": "divisor", "init": config.temperature_init_value}
    return {
        "image": image,
        "text": text,
        "embed_dim": getattr(config, "projection_dim", None) or config.vision_config.hidden_size,
        "logit_scale": scale,
        "logit_bias": 0.0 if family.bias else None,
        "image_projection": family.projections[0],
        "text_projection": family.projections[1],
    }


def _image(family: Family, part: Any, preprocess: Preprocess, where: str) -> dict[str, Any]:
    """The spec of the image tower."""
    if family.image is None:
        return {
            "name": "hf",
            "config": foreign.plain(part),
            "image_size": preprocess.size,
            "preprocess": preprocess.to_dict(),
        }
    size = square(part.image_size, where)
    _check_size(preprocess, size, where)
    if family.image.get("pooling") == "map" and not part.vision_use_head:
        raise InputError(f"{where} is not supported: its image tower has no pooling head")
    return {
        "name": "vit",
        "image_size": size,
        "patch": square(part.patch_size, where),
        **_sizes(part, where),
        **family.image,
        "preprocess": preprocess.to_dict(),
    }


def _check_size(preprocess: Preprocess, size: int, where: str) -> None:
    """Raise InputError for images of another size than the image tower's."""
    if preprocess.size != size:
        raise InputError(
            f"{where}: its preprocessor makes images of {preprocess.size} pixels, its image tower takes "
            f"{size}; make them equal"
        )


def _text(family: Family, part: Any, tokenizer: Tokenizer | None, where: str) -> dict[str, Any]:
    """The spec of the text tower."""
    if family.text is None:
        return {
            "name": "hf",
            "config": foreign.plain(part),
            "pooling": family.pooling,
            "context": tokenizer and tokenizer.context,
            "pad": tokenizer and tokenizer.pad,
            "eot": tokenizer and tokenizer.eot,
        }
    return {
        "name": "text",
        "vocab_size": part.vocab_size,
        "context": part.max_position_embeddings,
        **_sizes(part, where),
        **family.text,
        "eot": _eot(family, part) if family.text["pooling"] == "eot" else None,
    }


def _sizes(part: Any, where: str) -> dict[str, Any]:
    """What both of our own towers take from the config of a side."""
    if part.hidden_act not in ACTIVATION:
        raise unknown(f"activation of {where}", part.hidden_act, ACTIVATION)
    return {
        "width": part.hidden_size,
        "depth": part.num_hidden_layers,
        "heads": part.num_attention_heads,
        "mlp_ratio": part.intermediate_size / part.hidden_size,
        "activation": ACTIVATION[part.hidden_act],
        "eps": part.layer_norm_eps,
    }


def _eot(family: Family, text: Any) -> int:
    """The id at which texts are pooled. In CLIP's configs a 2 is an old mistake that means the
    highest id."""
    old = family.swap_end and text.eos_token_id == 2
    return text.vocab_size - 1 if old else text.eos_token_id


def _context(folder: Path, family: Family, text: Any) -> int:
    """The most tokens of a text: by its positions, by the family, and unless our own tower reads it
    by the tokenizer too."""
    limits = [text.max_position_embeddings]
    if family.offset:
        limits.append(text.max_position_embeddings - text.pad_token_id - 1)
    if family.most is not None:
        limits.append(family.most)
    stored = folder / "tokenizer_config.json"
    if family.text is None and stored.is_file():
        limits.append(int(read_json(stored).get("model_max_length") or limits[0]))
    return min(limits)


def _tokenizer(folder: Path, family: Family, text: Any, where: str) -> Tokenizer | None:
    """The folder's tokenizer, else CLIP's; None, with a warning, if another one is missing."""
    context = _context(folder, family, text)
    if has_tokenizer(folder):
        padding = (family.text or {}).get("padding", "longest")
        return from_folder(folder, context=context, padding=padding, local=True)
    if family.model == "CLIPModel" and text.vocab_size == 49408:
        try:
            tokenizer = Clip(context)
        except InputError as error:
            log.warning("%s has no tokenizer files and can embed images only: %s", where, error)
            return None
        log.warning(
            "%s has no tokenizer files: texts are split by the standard tokenizer of clip", where
        )
        return tokenizer
    log.warning("%s has no tokenizer files: it can embed images only", where)
    return None
