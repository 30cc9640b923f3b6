"""Any text encoder of transformers as a tower: `hf:FOLDER`, `hf:model_type=bert:width=768`, or a
config as plain values.

Dimensions: N texts, L tokens, D width.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diptych.errors import InputError
from diptych.spec import Count, Dropout, Width
from diptych.towers import hf as foreign
from diptych.towers.build import text
from diptych.towers.encoded import Edit, Encoded
from diptych.towers.nn.edits import edited
from diptych.towers.tower import Tower


@dataclass(frozen=True, kw_only=True)
class HFTextConfig:
    """Options of `hf`: a local folder in transformers' layout, the `config` (with `model_type`) of a
    fresh model, or its `model_type` with sizes in BERT's terms. With a folder `model_type` is the type
    as which it is read, where its own is one that transformers does not have. `causal=False` makes a causal
    language model attend in both directions; True leaves the model as it is."""

    folder: str | None = None
    config: Mapping[str, Any] | None = None
    model_type: str | None = None
    width: Width = 768
    depth: Count = 12
    heads: Count = 12
    dropout: Dropout = 0.1
    causal: bool = True
    pooling: Literal["first", "eot", "mean", "last"] = "mean"
    padding: Literal["longest", "max"] = (
        "longest"  # "max": always padded to `context`, and pads are attended to
    )
    vocab_size: int | None = None
    context: int | None = None
    pad: int | None = None
    eot: int | None = None

    def __post_init__(self):
        given = [self.folder, self.config, None if self.folder else self.model_type]
        if sum(each is not None for each in given) != 1:
            raise InputError(
                "an hf text tower wants either a folder (hf:FOLDER), a config or a model_type"
            )
        if self.pooling == "last" and self.padding != "max":
            raise InputError(
                "hf pooling=last reads the last place, which moves with padding=longest; choose eot"
            )

    def fresh(self) -> dict[str, Any]:
        """The config of a fresh model, as transformers names its values."""
        if self.config is not None:
            return dict(self.config)
        return {
            "model_type": self.model_type,
            "hidden_size": self.width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.heads,
            "intermediate_size": 4 * self.width,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout,
        }


@text("hf")
class HFTextTower(Tower):
    """Encode token ids (N, L) with lengths (N,) by a model of transformers, or by its encoder.

    The weights are loaded from the folder when the tower is built. The spec keeps only the model's
    config, so a trained tower is rebuilt without the folder.
    """

    Config = HFTextConfig
    argument = "folder"

    def __init__(self, config: HFTextConfig):
        if config.folder is not None:
            model = foreign.stored(config.folder, kind=config.model_type)
        else:
            options = config.fresh()
            if config.vocab_size is not None:
                options.setdefault("vocab_size", config.vocab_size)
            if config.pad is not None:
                options.setdefault("pad_token_id", config.pad)
            model = foreign.fresh(options)
        takes = inspect.signature(model.forward).parameters
        if "inputs_embeds" not in takes or not hasattr(model.config, "vocab_size"):
            raise InputError(
                f"transformers' {type(model).__name__} takes no embeddings; choose text tower text"
            )
        plain = foreign.plain(model.config)
        held = int(model.config.vocab_size)
        if config.vocab_size is not None and held < config.vocab_size:
            raise InputError(
                f"the hf text tower knows {held} tokens, its tokenizer gives {config.vocab_size}"
            )
        plainly = replace(config, folder=None, model_type=None, config=plain, vocab_size=held)
        super().__init__(plainly)
        self.set_model(model)
        # AltCLIP's text model projects its tokens
        self.width = int(getattr(model.config, "project_dim", model.config.hidden_size))

    def set_model(self, model: Any) -> None:
        """Compute with the encoder of a model of transformers, with its weights."""
        self.model = model.get_encoder() if model.config.is_encoder_decoder else model
        if getattr(self.model, "pooler", None) is not None:
            # `finish` pools; parameters without gradient would stall the exchange between ranks
            self.model.pooler = None

    @property
    def spec(self) -> dict[str, Any]:
        sizes = ("model_type", "width", "depth", "heads", "dropout")  # which the config has
        return {name: value for name, value in super().spec.items() if name not in sizes}

    @property
    def table(self) -> nn.Module:
        """The word embeddings, under the name used by our own text tower."""
        return self.model.get_input_embeddings()

    @property
    def context(self) -> int | None:
        """The most tokens that a text may have, or None if unbounded."""
        return self.config.context or getattr(self.model.config, "max_position_embeddings", None)

    def embed(self, ids: Tensor | None = None, embeddings: Tensor | None = None) -> Tensor:
        """Embed ids (N, L), or return embeddings (N, L, D); the model adds positions later."""
        if embeddings is not None:
            return embeddings
        assert ids is not None, "a text tower takes either ids or embeddings"
        return self.table(ids)

    def mask(self, lengths: Tensor, L: int) -> Tensor | None:
        """The key mask (N, L), True at real tokens; None if pads are attended to
        (padding="max")."""
        if self.config.padding == "max":
            return None
        return torch.arange(L, device=lengths.device) < lengths.clamp(min=1)[:, None]

    def blocks(
        self, tokens: Tensor, edit: Edit | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """Run the model on tokens (N, L, D), its final norm included; `edit` is applied to the
        input of each layer."""
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        seen = mask.long() if self.config.causal else _both_ways(mask, tokens.dtype)
        with edited(self.layers() if edit else [], edit):
            return self.model(inputs_embeds=tokens, attention_mask=seen).last_hidden_state

    def layers(self) -> list[nn.Module]:
        """The model's blocks."""
        return foreign.layers(self.model, self.model.config.num_hidden_layers)

    def finish(self, tokens: Tensor, lengths: Tensor) -> Encoded:
        """Pool the tokens, which the model has already normalised."""
        mask = self.mask(lengths, tokens.shape[1])
        match self.config.pooling:
            case "first":
                pooled = tokens[:, 0]
            case "last":
                pooled = tokens[:, -1]
            case "eot":
                pooled = tokens[
                    torch.arange(tokens.shape[0], device=tokens.device), lengths.clamp(min=1) - 1
                ]
            case _:
                real = (
                    torch.ones_like(tokens[..., :1])
                    if mask is None
                    else mask[..., None].to(tokens.dtype)
                )
                pooled = (tokens * real).sum(1) / real.sum(1)
        return Encoded(tokens, pooled, mask=mask)

    def forward(
        self,
        ids: Tensor | None,
        lengths: Tensor,
        *,
        edit: Edit | None = None,
        embeddings: Tensor | None = None,
        causal: bool | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Encoded:
        """Run `embed`, `blocks` and `finish`. Raises InputError for `memory` and for `causal`,
        which the model decides."""
        if memory is not None or memory_mask is not None or causal is not None:
            raise InputError(
                "an hf text tower takes no memory and no other causality; choose text tower text"
            )
        tokens = self.embed(ids, embeddings)
        tokens = self.blocks(tokens, edit, mask=self.mask(lengths, tokens.shape[1]))
        return self.finish(tokens, lengths)


def _both_ways(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the logits of attention (N, 1, L, L) so that every token attends to all
    tokens of a key mask (N, L); transformers takes four dimensions as they are."""
    added = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    added = added.masked_fill(~mask, torch.finfo(dtype).min)
    return added[:, None, None].expand(-1, 1, mask.shape[1], -1)
