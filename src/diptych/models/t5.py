"""T5 of transformers as a `CausalLM` with an encoder (Raffel et al., JMLR 2020).

The decoder re-reads all generated tokens for each further one, instead of caching keys and values,
since its texts are short.

Dimensions as in `seq2seq`; N tokens generated so far.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.tokenizers import HuggingFace, Tokenizer, from_dict
from diptych.data.tokenizers import from_folder as tokenizer_from_folder
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.models.causal_lm import CausalLM, prefixed
from diptych.models.pretrained.files import read_json
from diptych.models.state import Peek, State, peek_by_next
from diptych.spec import configure


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a T5 from scratch; the defaults are T5-base."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    dropout: float = 0.1


@dataclass(frozen=True)
class _Written:
    """The ids (B, N) so far, in place of a cache of keys and values."""

    ids: Tensor

    def select(self, index: Tensor | None = None) -> "_Written":
        return self if index is None else _Written(self.ids[index])


class T5(CausalLM):
    """Encoder and decoder of a `T5ForConditionalGeneration` with one embedding table."""

    def __init__(self, model: Any, tokenizer: Tokenizer, *, own: bool):
        nn.Module.__init__(self)  # it has no `TextTower`
        self.tokenizer = tokenizer
        self.own = own
        self.plain: dict[str, Any] = model.config.to_diff_dict()
        self.width = int(model.config.d_model)
        self.words = model.shared
        self.encoder = model.encoder
        self.decoder = model.decoder
        self.encoder.embed_tokens = self.decoder.embed_tokens = None  # one table, saved once
        # FlanT5 and T5 1.1 have tie_word_embeddings false; transformers 5 keeps it under another name
        config = model.config
        scaled = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
        self.scale = float(self.width) ** -0.5 if scaled else 1.0
        if not scaled:
            self.plain["tie_word_embeddings"] = False
        self.head = None if model.lm_head.weight is model.shared.weight else model.lm_head

    @property
    def table(self) -> nn.Embedding:
        return self.words

    @property
    def context(self) -> int:
        return self.tokenizer.context

    def config(self) -> dict[str, Any]:
        return {"t5": self.plain}

    def extra_state(self) -> dict[str, Any]:
        """Its config and tokenizer, if it has its own tokenizer."""
        return {"t5": self.plain, "words": self.tokenizer.to_dict()} if self.own else {}

    def read(
        self, vectors: Tensor, ids: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `Seq2Seq.read`."""
        x, mask = prefixed(vectors, self.words, ids, lengths)
        return self.encode(x, mask), mask

    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        """As `Seq2Seq.encode`."""
        return self.encoder(inputs_embeds=x, attention_mask=mask.long()).last_hidden_state

    def forward(  # type: ignore[override] # no mask or prefix: all generated tokens are real
        self, ids: Tensor, *, memory: Tensor, memory_mask: Tensor | None = None, prefix: None = None
    ) -> Tensor:
        """Tokens (B, N, D) of ids (B, N), after the decoder's final norm."""
        return self.decoder(
            inputs_embeds=self.words(ids),
            encoder_hidden_states=memory,
            use_cache=False,
            encoder_attention_mask=None if memory_mask is None else memory_mask.long(),
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        table = self.words if self.head is None else self.head
        return F.linear(hidden * self.scale, table.weight)

    def start(
        self,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        memory: Tensor | None = None,
        prefix: Tensor | None = None,
        *,
        memory_mask: Tensor | None = None,
    ) -> State:
        assert ids is not None, "texts are written from their start id on"
        assert memory is not None, "and from what was read"
        assert prefix is None, "a prefix belongs into what is read"
        hidden = self(ids, memory=memory, memory_mask=memory_mask)
        real = torch.ones_like(ids, dtype=torch.bool)
        cache: Any = _Written(ids)
        return State(
            at_least_float32(self.logits(hidden[:, -1])), hidden, real, cache, memory, memory_mask
        )

    def next(self, state: State, ids: Tensor) -> State:
        written: Any = state.cache
        ids = torch.cat([written.ids, ids.view(len(ids), -1)], dim=1)
        return self.start(ids, None, state.memory, memory_mask=state.memory_mask)

    def peek(self, state: State, ids: Tensor) -> Peek:
        return peek_by_next(self, state, ids)


def fresh(tokenizer: Tokenizer, **options: Any) -> T5:
    """A T5 with fresh weights for a tokenizer; `options` are those of `Shape`."""
    shape = configure(Shape, options, "t5")
    config = _transformers().T5Config(
        vocab_size=tokenizer.vocab_size,
        d_model=shape.width,
        d_kv=shape.width // shape.heads,
        d_ff=4 * shape.width,
        num_layers=shape.depth,
        num_heads=shape.heads,
        dropout_rate=shape.dropout,
        pad_token_id=tokenizer.pad,
        eos_token_id=tokenizer.eot,
        decoder_start_token_id=tokenizer.before[0],
    )
    return T5(_transformers().T5ForConditionalGeneration(config), tokenizer, own=False)


def from_folder(folder: str, *, context: int | None = None) -> T5:
    """Load the T5 of a folder with its tokenizer, which truncates texts at `context` ids (None: the
    folder's)."""
    transformers = _transformers()
    if not (Path(folder) / "config.json").is_file():
        raise InputError(
            f"{folder} holds no config.json; give a folder of a T5 in transformers' layout"
        )
    config = transformers.AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    if config.model_type != "t5":
        raise InputError(f"{folder} holds a {config.model_type}; give a folder of a T5")
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    words = tokenizer_from_folder(folder, context=context, local=True)
    if not isinstance(words, HuggingFace):
        raise InputError(f"the tokenizer in {folder} is a {words.kind}, not a T5's")
    values = words.to_dict()
    values["before"] = [int(config.decoder_start_token_id or 0)]  # the start id of T5's decoder
    if not values["after"]:  # of a class that marks no ends; T5's configs need not repeat its own
        values["after"] = [int(config.to_dict().get("eos_token_id") or 1)]
    return T5(model, from_dict(values), own=True)


def is_t5(folder: str) -> bool:
    """Whether a folder of transformers holds a T5, such as FlanT5."""
    config = Path(folder).expanduser() / "config.json"
    return config.is_file() and read_json(config).get("model_type") == "t5"


class EncoderDecoder:
    """The T5 of a folder as a language model that others lend: `lm`, whose encoder reads what comes
    before (`T5.read`), and its tokenizer."""

    def __init__(self, folder: str):
        self.lm = from_folder(str(Path(folder).expanduser())).float().eval()

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which starts texts with the first id of the decoder."""
        return self.lm.tokenizer

    def to(self, device: torch.device | str) -> "EncoderDecoder":
        """Move the model."""
        self.lm.to(device)
        return self


def rebuilt(values: dict[str, Any]) -> T5:
    """The T5 that `extra_state` describes, with fresh weights."""
    transformers = _transformers()
    config = transformers.T5Config.from_dict(values["t5"])
    return T5(transformers.T5ForConditionalGeneration(config), from_dict(values["words"]), own=True)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "a T5 needs transformers; install it with: pip install 'diptych[language]'"
        ) from error
    return transformers
