"""Functions for several targets: checks of specs, our tensors in the form of foreign towers,
tokenizer files.

Dimensions: P patches, K CLS tokens, D width.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as RustTokenizer
from torch import Tensor

from diptych.data.tokenizers import Bpe, Clip, HuggingFace, SentencePiece, Tokenizer
from diptych.data.tokenizers.clip import END, PATTERN, START, _vocabulary
from diptych.errors import InputError
from diptych.models.model import TextModel
from diptych.towers.dual import DualEncoder

CROP = ("where an image's margin is an odd number of pixels, its centre is cut one pixel further on one side than we "
        "do")  # fmt: skip
MENDS = "texts with broken encodings or HTML entities are mended by us and not by the exported tokenizer"


OF_TEXTS: Mapping[str, Sequence[Any]] = {
    "positions": [None, "learned"],
    "scale_embedding": [None, False],
}
"""What all text towers of other libraries have in common."""


def differs(spec: Mapping[str, Any], wanted: Mapping[str, Sequence[Any]], side: str) -> str | None:
    """The first option of a tower's spec that has no wanted value, as text; None if there is none.

    >>> differs({"name": "conv"}, {"name": ["vit"]}, "image")
    "its image tower has name='conv' (wanted: 'vit')"
    """
    for key, allowed in {**wanted, **(OF_TEXTS if side == "text" else {})}.items():
        if spec.get(key) not in allowed:
            return f"its {side} tower has {key}={spec.get(key)!r} (wanted: {' or '.join(map(repr, allowed))})"
    return None


def pooled_apart(config: Mapping[str, Any]) -> str | None:
    """Why other libraries have no place for the attentional poolers of a dual encoder's config, if it
    has some."""
    pooler = config.get("image_pooler")
    return None if pooler is None else f"it has image_pooler={pooler!r}"


def heads(spec: Mapping[str, Any]) -> int:
    """The number of attention heads of a spec."""
    return spec["heads"] or max(1, spec["width"] // 64)


def hidden(spec: Mapping[str, Any]) -> int:
    """The hidden width of a spec's feed-forward layers."""
    return round(spec["width"] * spec["mlp_ratio"])


def tensors(encoder: DualEncoder, *, patch_bias: bool) -> dict[str, Tensor]:
    """A copy of the state in the form of foreign ViTs, for the same computation.

    CLS tokens have positions (zeros if ours have none). With `patch_bias=False`, the bias of the
    patches is added to each patch's position, which is equivalent; with True it exists, as zeros if
    ours has none. The temperature is the logarithm of the multiplier.
    """
    state = {
        name: value.detach().float().clone() if value.is_floating_point() else value.clone()
        for name, value in encoder.state_dict().items()
    }
    if encoder.logit_scale.form != "exp":
        state["logit_scale.value"] = encoder.logit_scale().detach().float().log().clone()
    spec = encoder.image.spec
    if spec["name"] != "vit":
        return state
    state.pop("image.mask_token", None)  # no patch of what is embedded is masked
    own = spec["cls"] if spec["cls_position"] else 0
    if not patch_bias and "image.patch_embed.bias" in state:
        state["image.positions"][own:] += state.pop("image.patch_embed.bias")
    if patch_bias and "image.patch_embed.bias" not in state:
        state["image.patch_embed.bias"] = torch.zeros(spec["width"])
    if spec["cls"] and not own:
        zeros = torch.zeros(spec["cls"], spec["width"])
        state["image.positions"] = torch.cat([zeros, state["image.positions"]])
    return state


def tokenizer_of(model: TextModel) -> Tokenizer:
    """The model's tokenizer; `export` has rejected models without one."""
    assert model.tokenizer is not None
    return model.tokenizer


PIPELINES = Clip | HuggingFace | Bpe
"""The tokenizers that have a Rust pipeline."""


def rust(tokenizer: Tokenizer) -> RustTokenizer:
    """A tokenizer's Rust pipeline with special ids around each text, as in a tokenizer.json."""
    if isinstance(tokenizer, Clip):
        made = _clip()
    elif isinstance(tokenizer, HuggingFace):
        made = RustTokenizer.from_str(tokenizer.content)
        made.no_padding()
        made.no_truncation()
    elif isinstance(tokenizer, Bpe):
        made = RustTokenizer.from_str(tokenizer.pipeline)
    else:
        raise InputError(f"a tokenizer of kind {tokenizer.kind} has no tokenizer.json")
    ids = dict.fromkeys((*tokenizer.before, *tokenizer.after))
    names = {number: str(made.id_to_token(number)) for number in ids}
    template = [
        *map(names.__getitem__, tokenizer.before),
        "$A",
        *map(names.__getitem__, tokenizer.after),
    ]
    made.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(name, number) for number, name in names.items()]
    )
    return made


def swapped(pipeline: RustTokenizer, a: int, b: int) -> RustTokenizer:
    """The same pipeline with two ids exchanged."""
    content = json.loads(pipeline.to_str())
    other = {a: b, b: a}
    content["model"]["vocab"] = {
        token: other.get(number, number) for token, number in content["model"]["vocab"].items()
    }
    for entry in content["added_tokens"]:
        entry["id"] = other.get(entry["id"], entry["id"])
    for entry in (content["post_processor"] or {}).get("special_tokens", {}).values():
        entry["ids"] = [other.get(number, number) for number in entry["ids"]]
    return RustTokenizer.from_str(json.dumps(content))


def write_tokenizer(
    tokenizer: Tokenizer,
    folder: Path,
    pipeline: RustTokenizer | None = None,
    *,
    own_pad: bool = False,
) -> None:
    """Write files with which transformers' AutoTokenizer gives the same ids; `pipeline` replaces
    the tokenizer's. Set `own_pad` if the id of pads tells them from words."""
    config: dict[str, Any] = {"model_max_length": tokenizer.context, "padding_side": "right"}
    if isinstance(tokenizer, SentencePiece):
        (folder / "spiece.model").write_bytes(tokenizer.model)
        token = tokenizer.token
        config |= {
            "tokenizer_class": "SiglipTokenizer",
            "do_lower_case": tokenizer.lower,
            "unk_token": "<unk>",
            "pad_token": token(tokenizer.pad),
            "eos_token": token(tokenizer.after[0]),
            "model_input_names": ["input_ids"],
        }
    else:
        pipeline = pipeline or rust(tokenizer)
        pipeline.save(str(folder / "tokenizer.json"))
        kept = pipeline.encode("").ids  # the special ids in the pipeline's numbering
        end = pipeline.id_to_token(kept[-1]) if tokenizer.after else None
        # Pads after a text's end are never attended to, unless texts are always padded; then the
        # pad id matters. Another library's tokenizer keeps its pad.
        keeps = tokenizer.padding == "max" or isinstance(tokenizer, HuggingFace)
        pad = pipeline.id_to_token(tokenizer.pad) if own_pad or keeps or end is None else end
        config |= {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": pad,
            # with a mask, a tower that attends to its pads would no longer do so
            "model_input_names": ["input_ids"] + ["attention_mask"] * (tokenizer.padding != "max"),
        }
        if end is not None:
            config["eos_token"] = end
        if tokenizer.before:
            config["bos_token"] = pipeline.id_to_token(kept[0])
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8"
    )


def write_json(path: Path, content: Any) -> None:
    """Write plain values as JSON."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _clip() -> RustTokenizer:
    """CLIP's tokenizer as built by transformers: the same ids, except that texts are not
    repaired."""
    made = RustTokenizer(_vocabulary()[1])
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([START, END])
    return made
