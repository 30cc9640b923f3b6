"""Models of open_clip: `openclip:NAME[/TAG]`; configs, tags and preprocessing are read from the
installed library.

ViT CLIP, SigLIP, CoCa and CLIP's text towers are rebuilt in our own towers. Other image towers are
modules of timm, other text towers modules of transformers.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diptych.data.tokenizers import Clip, Tokenizer, from_folder
from diptych.data.tokenizers.hf import has_tokenizer
from diptych.errors import InputError, brief, unknown
from diptych.models.delivered import Validation
from diptych.models.model import Model
from diptych.models.multimodal import (
    ContrastiveCaptioner,
    MultimodalLM,
    TwoPassCaptioner,
    TwoPassLM,
)
from diptych.models.pretrained.convert import fill, take
from diptych.models.pretrained.files import read_json, read_weights
from diptych.models.pretrained.openclip.describe import describe
from diptych.models.pretrained.openclip.preprocess import preprocess_of
from diptych.models.pretrained.openclip.rules import decoder_rules
from diptych.towers.dual import DualEncoder

log = logging.getLogger(__name__)

DECODER = "text_decoder."
"""How the names of CoCa's decoder begin."""

MAMMUT_OWN = ("text.text_projection", "map_viz2txt_kv")
"""The names of what MaMMUT's decoder has beside the text tower."""

LONGEST = 30
"""The most tokens that open_clip's CoCa writes by default."""


def load(name: str, weights: Path | None = None) -> Model:
    """Load the model NAME of open_clip with the weights of TAG, or of a local file or folder.

    The preprocessing is that of the TAG; without one, that of an open_clip_config.json next to the
    weights, else that of open_clip's `create_model_and_transforms(NAME)`. That file also describes
    a model whose NAME the library does not know, such as openMaMMUT's. Raises InputError for
    unknown names and tags, an activation other than the tag's, weights that cannot be fetched or do
    not fit, and architectures that are not supported.
    """
    open_clip = _open_clip()
    name, _, tag = name.partition("/")
    where = f"openclip:{name}/{tag}" if tag else f"openclip:{name}"
    folder = None if weights is None else weights if weights.is_dir() else weights.parent
    config = open_clip.get_model_config(name) or _config_in(folder)
    if config is None:
        raise unknown("open_clip model", name, open_clip.list_models())
    tagged = _tag(open_clip, name, tag, config) if tag else None
    dual, rules = describe(config, where)
    if weights is None:
        weights = _download(open_clip, where, tagged)
    dual["image"]["preprocess"] = preprocess_of(config, tagged, folder, where).to_dict()
    state = read_weights(weights)
    own = MAMMUT_OWN if config["text_cfg"].get("does_full_decoding") else (DECODER,)
    of_decoder = {name: state.pop(name) for name in list(state) if name.startswith(own)}
    origin = f"{where} with the weights {weights}"
    encoder = fill(dual, state, rules, origin)
    tokenizer = _tokenizer(config["text_cfg"], dual["text"]["padding"], folder, where)
    captioner = captioner_of(encoder, tokenizer, config) if of_decoder and tokenizer else None
    if captioner is not None:
        take(captioner.lm, of_decoder, decoder_rules(config), origin)
        return captioner.eval().to_model(tokenizer, encoder.image.preprocess, where)
    if of_decoder:
        log.warning("%s: its decoder does not go on from its text tower and is left out", where)
    return Model(encoder, tokenizer, encoder.image.preprocess, name=where)


def captioner_of(
    encoder: DualEncoder, words: Tokenizer, config: Mapping[str, Any]
) -> ContrastiveCaptioner | None:
    """The captioner of a config of open_clip, CoCa's or MaMMUT's, with its decoder on the meta
    device; None if the config has no decoder, or one that does not go on from the text tower of
    `encoder`."""
    cfg: Mapping[str, Any] = config.get("multimodal_cfg", {})
    text = config["text_cfg"]
    validation = Validation("retrieval", Model.validation.names)
    if text.get("does_full_decoding"):
        with torch.device("meta"):
            two_pass = TwoPassLM(encoder.text, encoder.image.width)
        return TwoPassCaptioner(encoder, words, two_pass, validation=validation, longest=LONGEST)
    alike = bool(cfg) and not text.get("hf_model_name")
    for key, default in (("width", 512), ("mlp_ratio", 4), ("ls_init_value", None)):
        alike = alike and cfg.get(key, default) == text.get(key, default)
    if not alike or encoder.image.width != text.get("width", 512):
        return None
    spec = f"apart:depth={cfg.get('layers', 12)}:heads={cfg.get('heads', 8)}"
    with torch.device("meta"):
        lm = MultimodalLM(encoder.text, spec, encoder.image.width)
    return ContrastiveCaptioner(encoder, words, lm, validation=validation, longest=LONGEST)


def _config_in(folder: Path | None) -> dict[str, Any] | None:
    """The model that an open_clip_config.json next to the weights describes, of a name that the
    library does not know; None without one."""
    stored = None if folder is None else folder / "open_clip_config.json"
    if stored is None or not stored.is_file():
        return None
    return read_json(stored).get("model_cfg")


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise InputError(
            "openclip: models need open_clip_torch; pip install 'diptych[openclip]'"
        ) from None
    return open_clip


def _tag(open_clip: Any, name: str, tag: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """open_clip's config of a tag. Raises InputError for a tag with another activation than
    NAME's."""
    tagged = open_clip.get_pretrained_cfg(name, tag)
    plain = name.removesuffix("-quickgelu")
    other = plain if name != plain else f"{name}-quickgelu"
    if not tagged and not open_clip.get_pretrained_cfg(other, tag):
        raise unknown(f"tag of {name}", tag, open_clip.list_pretrained_tags_by_model(name))
    named = (
        open_clip.get_model_config(other) is not None
    )  # else NAME stands for its tags as they are
    if not tagged or (named and bool(tagged.get("quick_gelu")) != bool(config.get("quick_gelu"))):
        names = ("GELU", "QuickGELU") if config.get("quick_gelu") else ("QuickGELU", "GELU")
        raise InputError(
            f"openclip:{name}/{tag}: its weights are of {names[0]}, {name} computes {names[1]}; "
            f"use openclip:{other}/{tag}"
        )
    return tagged


def _download(open_clip: Any, where: str, tagged: Mapping[str, Any] | None) -> Path:
    if tagged is None:
        name = where.removeprefix("openclip:")
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "no tags"
        raise InputError(
            f"{where} names no weights; write {where}/TAG ({tags}) or name a local file with --weights FILE (weights=)"
        )
    from open_clip.pretrained import download_pretrained

    try:
        found = download_pretrained(dict(tagged))
    except Exception as error:  # the network raises many kinds
        source = tagged.get("hf_hub") or tagged.get("url")
        raise InputError(
            f"the weights of {where} cannot be fetched from {source} ({brief(error)}); "
            "fetch them elsewhere and name the file: --weights FILE (weights=)"
        ) from error
    return Path(found)


def _tokenizer(
    cfg: Mapping[str, Any], padding: Any, folder: Path | None, where: str
) -> Tokenizer | None:
    """CLIP's tokenizer or, if the config names another, the one next to the weights or on the hub;
    None if unavailable."""
    options = dict(cfg.get("tokenizer_kwargs") or {})
    context = cfg.get("context_length", 77)
    if not cfg.get("hf_tokenizer_name"):
        return Clip(context, options.get("clean", "lower"), padding)
    source = folder if folder is not None and has_tokenizer(folder) else cfg["hf_tokenizer_name"]
    try:
        return from_folder(
            source,
            context=context,
            padding=padding,
            clean=options.pop("clean", "whitespace"),
            strip_end=options.pop("strip_sep_token", False),
            local=folder is not None,
        )
    except InputError as error:
        if source == folder:
            raise
        log.warning("%s comes without a tokenizer, it can embed images only: %s", where, error)
        return None
