"""Causal language models of transformers: `hf-lm:FOLDER`.

config.json                    of any `AutoModelForCausalLM`; without a model type it is a LLaMA
model.safetensors              its weights
tokenizer.json, …              its tokenizer, or vocab.json with pieces and scores
"""

import copy
import inspect
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.tokenizers import HuggingFace, Tokenizer, from_folder
from diptych.data.tokenizers.hf import has_tokenizer, quiet
from diptych.data.tokenizers.pieces import from_pieces, has_pieces
from diptych.errors import InputError, brief
from diptych.models.causal_lm import CausalLM, candidates_mask
from diptych.models.language import LanguageModel
from diptych.models.pretrained.files import read_json
from diptych.models.state import Peek, State, peek_by_next
from diptych.towers.encoded import Edit
from diptych.towers.hf import layers
from diptych.towers.nn.edits import edited
from diptych.towers.nn.kv_cache import one_of_last

HF_LM = "hf-lm"
"""The prefix of these models, and the name in their spec."""
_PROBE = 1e-3  # the largest difference of logits to transformers', relative to the largest logit


class HFCausalLM(CausalLM):
    """A causal language model of transformers, whose layers and cache are used as they are.

    `tower` is its transformer up to the final norm. The spec of `config` keeps the model's config,
    so a trained model is rebuilt without the folder.

    Raises InputError for a model that says nothing about its context.
    """

    def __init__(self, model: Any):
        nn.Module.__init__(self)  # it has no `TextTower`
        most = getattr(model.config, "max_position_embeddings", None)
        if most is None:
            raise InputError(
                f"a {type(model).__name__} has no max_position_embeddings; choose a model with a context"
            )
        self._context = int(most)
        plain = model.config.to_diff_dict() | {"model_type": model.config.model_type}
        # the version would make an update another model, the type of the file a model in float16
        others = ("transformers_version", "dtype", "torch_dtype")
        self.plain = {name: value for name, value in plain.items() if name not in others}
        self.tower = model.base_model
        takes = inspect.signature(self.tower.forward).parameters
        self._cache = "cache" if "cache" in takes else "past_key_values"  # by transformers' version
        head = model.get_output_embeddings()
        tied = head.weight is model.get_input_embeddings().weight
        self.head = None if tied else head  # a tied table is saved once

    @classmethod
    def fresh(cls, config: Mapping[str, Any]) -> "HFCausalLM":
        """Return a model of a config in plain values, with new weights."""
        transformers = _transformers()
        options = dict(config)
        kind = options.pop("model_type")
        made = transformers.AutoConfig.for_model(kind, **options)
        return cls(transformers.AutoModelForCausalLM.from_config(made))

    @property
    def table(self) -> nn.Embedding:
        return self.tower.get_input_embeddings()

    @property
    def context(self) -> int:
        return self._context

    def config(self) -> dict[str, Any]:
        return {"text": {"name": HF_LM, "config": self.plain}}

    def forward(
        self,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        prefix: Tensor | None = None,
        cache: Any = None,
        edit: Edit | None = None,
    ) -> Tensor:
        """As `CausalLM.forward`. Raises InputError for a memory, which these models do not read."""
        if memory is not None or memory_mask is not None:
            raise InputError("a language model of hf-lm: reads no memory; give it as a prefix")
        x, place = self._embedded(ids, mask, prefix)
        with edited(layers(self.tower, self.depth) if edit else [], edit):
            return self._read(x, None if mask is None else mask.long(), place, cache)

    @property
    def depth(self) -> int:
        return int(self.tower.config.num_hidden_layers)

    def _read(self, x: Tensor, mask: Tensor | None, place: Tensor, cache: Any) -> Tensor:
        """Embeddings (B, N, D) at their places through the layers; the mask is as transformers
        takes it."""
        read = self.tower(
            inputs_embeds=x,
            attention_mask=mask,
            position_ids=place.expand(x.shape[:2]),
            use_cache=cache is not None,
            **({} if cache is None else {self._cache: cache.past}),
        )
        if cache is not None:
            cache.past = read[self._cache]
        return read.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.table.weight) if self.head is None else self.head(hidden)

    def _empty_cache(self) -> Any:
        return _Past()

    def peek(self, state: State, ids: Tensor) -> Peek:
        """As `CausalLM.peek`. Models whose attention takes no mask for each query, or whose cache
        drops tokens, read each candidate in a row of its own."""
        past: Any = state.cache
        if past.grows and self._takes_masks:
            return super().peek(state, ids)
        return peek_by_next(self, state, ids)

    def _peeked(self, state: State, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Any]:
        cache: Any = state.cache.select()
        x = self.table(ids)
        seen = candidates_mask(state.mask, ids.shape[1])[:, None]
        mask = torch.zeros_like(seen, dtype=x.dtype).masked_fill(~seen, torch.finfo(x.dtype).min)
        return self._read(x, mask, lengths[:, None], cache), cache

    @cached_property
    def _takes_masks(self) -> bool:
        """Whether candidates that share a cache are read as each alone, tried on a few tokens."""
        device = self.table.weight.device
        ids = torch.arange(6, device=device)[None] % self.table.num_embeddings
        mask = torch.tensor([[False, True, True]], device=device)
        with torch.no_grad():
            state = self.start(ids[:, :3], mask)
            alone = peek_by_next(self, state, ids[:, 3:]).hidden
            try:
                together, _ = self._peeked(state, ids[:, 3:], mask.sum(1))
            except (RuntimeError, ValueError, TypeError, IndexError):  # of models with other masks
                return False
        return bool((together - alone).abs().max() <= _PROBE * alone.abs().max())


class _Past:
    """transformers' cache with the interface of `KVCache`; a forward pass fills it in place."""

    def __init__(self, past: Any = None):
        self.past = past

    @property
    def grows(self) -> bool:
        """Whether each layer's cache holds all tokens and is replaced, not written into."""
        return type(self.past).__name__ == "DynamicCache" and all(
            type(layer).__name__ == "DynamicLayer" for layer in self.past.layers
        )

    def select(self, index: Tensor | None = None) -> "_Past":
        if self.grows:
            past = copy.copy(self.past)
            past.layers = [copy.copy(layer) for layer in self.past.layers]
        else:
            past = copy.deepcopy(self.past)
        if index is not None:
            past.batch_select_indices(index)
        return _Past(past)

    def take(self, index: Tensor, k: int) -> "_Past":
        """As `KVCache.take`, of a cache that grows."""
        found = self.select()
        for layer in found.past.layers:
            layer.keys = one_of_last(layer.keys, index, k)
            layer.values = one_of_last(layer.values, index, k)
        return found


def load(name: str, weights: Path | None = None) -> LanguageModel:
    """Load the language model of a folder.

    Raises InputError for a folder that transformers cannot read, without a tokenizer, or with a
    model whose logits are more than an output layer on its last tokens.
    """
    where = f"{HF_LM}:{name}"
    folder = Path(name).expanduser()
    if weights is not None:
        raise InputError(f"the weights of {where} are in its own folder; name that alone")
    if not (folder / "config.json").is_file():
        raise InputError(
            f"there is no config.json in {name!r}; name a folder in transformers' layout"
        )
    model = _model(folder, where)
    lm = HFCausalLM(model).eval()
    _check(lm, model, where)
    return LanguageModel(lm, _tokenizer(folder, model.config, lm.context, where), name=where)


def _model(folder: Path, where: str) -> Any:
    """The model with its weights, in float32."""
    transformers = _transformers()
    typed = "model_type" in read_json(folder / "config.json")
    cls = transformers.AutoModelForCausalLM if typed else transformers.LlamaForCausalLM
    try:
        with quiet():
            model, found = cls.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises many kinds for damaged files
        raise InputError(
            f"{where} is no causal language model that transformers can read ({brief(error)})"
        ) from None
    lacks = sorted(found["missing_keys"])
    if lacks:
        raise InputError(
            f"the weights of {where} lack {lacks[0]} ({len(lacks)} in all); copy the folder again"
        )
    return model.float().eval()


def _check(lm: HFCausalLM, model: Any, where: str) -> None:
    """Raise InputError unless the logits of some tokens are those of transformers."""
    ids = torch.arange(8)[None] % lm.table.num_embeddings
    with torch.inference_mode():
        own = lm.logits(lm(ids))
        theirs = model(input_ids=ids).logits
    if (own - theirs).abs().max() > _PROBE * theirs.abs().max():
        raise InputError(
            f"{where} is not supported: its logits are more than an output layer on its last tokens"
        )


def _tokenizer(folder: Path, config: Any, context: int, where: str) -> Tokenizer:
    """The folder's tokenizer, with the start and end of texts from config.json where it puts none
    itself."""
    if has_pieces(folder):
        return from_pieces(folder, context=context)
    if not has_tokenizer(folder):  # transformers would make an empty one
        raise InputError(f"{folder} has no tokenizer files, such as tokenizer.json; copy them too")
    found = from_folder(folder, context=context, local=True)
    start = found.before or _first(config.bos_token_id)
    end = found.after or _first(config.eos_token_id)
    if not start or not end:
        raise InputError(
            f"{folder / 'config.json'} names no bos_token_id or no eos_token_id, which mark where "
            f"texts start and end; add them to use {where}"
        )
    return HuggingFace.from_dict({**found.to_dict(), "before": start, "after": end})


def _first(given: int | list[int] | None) -> tuple[int, ...]:
    """The special token of a config, which may list several; none if it has none."""
    ids = [given] if isinstance(given, int) else given or []
    return tuple(ids[:1])


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise InputError(
            "hf-lm: models need transformers; pip install 'diptych[language]'"
        ) from None
    return transformers
