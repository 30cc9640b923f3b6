"""The causal language model for strings."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.dtypes import at_least_float32
from diptych.errors import InputError, Missing
from diptych.models.causal_lm import CausalLM
from diptych.models.delivered import Validation
from diptych.models.generate import generate
from diptych.models.model import Model, evaluating
from diptych.models.saved import Saved
from diptych.towers.encoded import Encoded
from diptych.towers.nn.parts import checksum


class LanguageModel(Saved):
    """A causal language model for strings, in float32, as returned by `diptych.load`.

    Raises InputError if the tokenizer does not fit the model, or does not mark the start and end of
    texts.
    """

    precision = "float32"
    validation = Validation("perplexity", ("perplexity", "bits_per_character"))

    def __init__(self, lm: CausalLM, tokenizer: Tokenizer, *, name: str):
        check_tokenizer(tokenizer)
        if tokenizer.vocab_size > lm.table.num_embeddings or tokenizer.context > lm.context:
            raise InputError(
                f"{name}: the model has {lm.table.num_embeddings} words and a context of {lm.context}, its tokenizer "
                f"{tokenizer.vocab_size} and {tokenizer.context}; use the one it was trained with"
            )
        self.lm = lm
        self.tokenizer = tokenizer
        self.name = name

    def __getattr__(self, name: str) -> Any:
        if name in ("encoder", "preprocess") or (hasattr(Model, name) and not name.startswith("_")):
            raise Missing(
                f"{self.name} is a language model and has no {name}; name a model of images and texts"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.lm.parameters())
        return (
            f"{type(self).__name__}({self.name!r}: {count:,} parameters, context of {self.lm.context}, "
            f"{self.precision} on {self.device})"
        )

    @property
    def _whole(self) -> nn.Module:
        return self.lm

    def generate(
        self,
        prompts: str | Sequence[str] = "",
        *,
        strategy: str = "greedy",
        max_tokens: int | None = None,
        min_tokens: int = 0,
        seed: int = 0,
        batch_size: int = 64,
        **options: Any,
    ) -> list[str]:
        """Generate the continuation of each prompt: prompt + result is the text (as the tokenizer
        decodes it).

        Strategies and their options are those of `models.strategies`; at most `max_tokens` (None: up
        to the context) and at least `min_tokens` tokens are generated. Random numbers depend on
        (seed, index of the prompt), not on batches. Raises InputError for an unknown strategy or
        option, and for prompts that fill the context.
        """
        prompts = _texts(prompts, "prompts")
        before = list(self.tokenizer.before)
        rows = [before + self.tokenizer.ids(prompt) for prompt in prompts]
        found = []
        with evaluating(self.lm), torch.inference_mode():
            for start in range(0, len(rows), batch_size):
                ids, lengths = pad_batch(rows[start : start + batch_size], self.tokenizer)
                mask = torch.arange(ids.shape[1]) < lengths[:, None]
                found += generate(
                    self.lm,
                    ids.to(self.device),
                    mask.to(self.device),
                    strategy=strategy,
                    eot=self.tokenizer.eot,
                    max_tokens=max_tokens,
                    min_tokens=min_tokens,
                    seed=seed,
                    row=start,
                    **options,
                )
        return [
            self.tokenizer.decode(row + more)[len(self.tokenizer.decode(row)) :]
            for row, more in zip(rows, found, strict=True)
        ]

    def log_prob(
        self,
        texts: str | Sequence[str],
        prompts: str | Sequence[str] | None = None,
        *,
        end: bool = True,
        batch_size: int = 64,
    ) -> Tensor:
        """log p(text i and its end | prompt i), (N,), as a sum over tokens (not normalised by
        length). Without `end` the text may go on.

        Raises InputError for a text that exceeds the context with its prompt.
        """
        texts = _texts(texts, "texts")
        prompts = [""] * len(texts) if prompts is None else _texts(prompts, "prompts")
        if len(prompts) != len(texts):
            raise InputError(
                f"{len(texts)} texts came with {len(prompts)} prompts; give one for each, or none"
            )
        heads = [[*self.tokenizer.before, *self.tokenizer.ids(prompt)] for prompt in prompts]
        after = list(self.tokenizer.after) if end else []
        rows = [
            head + self.tokenizer.ids(text) + after for head, text in zip(heads, texts, strict=True)
        ]
        for text, row in zip(texts, rows, strict=True):
            if len(row) > self.lm.context:
                raise InputError(
                    f"{text[:40]!r}… has {len(row)} tokens with its prompt, the context of {self.name} "
                    f"is {self.lm.context}; shorten it"
                )
        order = sorted(
            range(len(rows)), key=lambda i: len(rows[i])
        )  # batches of similar lengths need little padding
        found = torch.zeros(len(rows))
        with evaluating(self.lm), torch.inference_mode():
            for start in range(0, len(rows), batch_size):
                some = order[start : start + batch_size]
                ids, lengths = pad_batch([rows[i] for i in some], self.tokenizer)
                first = torch.tensor([len(heads[i]) for i in some], device=self.device)
                found[some] = self.lm.log_prob(
                    ids.to(self.device), lengths.to(self.device), first=first
                ).cpu()
        return found

    def hidden_states(self, texts: Sequence[str], *, length: int | None = None) -> Encoded:
        """The tokens (N, L, D) of texts after the final norm, those of their starts first, with a
        mask of the real ones; float32, on the CPU. Texts are cut at `length` tokens, and at the
        context."""
        most = min(length or self.lm.context, self.lm.context)
        before = list(self.tokenizer.before)
        rows = [(before + self.tokenizer.ids(text))[:most] for text in _texts(texts, "texts")]
        with evaluating(self.lm), torch.inference_mode():
            ids, lengths = pad_batch(rows, self.tokenizer)
            mask = torch.arange(ids.shape[1]) < lengths[:, None]
            hidden = self.lm(ids.to(self.device), mask.to(self.device))
            tokens = at_least_float32(hidden).cpu().clone()
        last = tokens[torch.arange(len(tokens)), lengths - 1]
        return Encoded(tokens, last, mask=mask)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.lm.table.weight.device

    def to(self, device: torch.device | str) -> "LanguageModel":
        """Move the model."""
        self.lm.to(device)
        return self

    @cached_property
    def identity(self) -> str:
        """SHA-256 of all that determines probabilities (weights, tower, tokenizer), computed at
        first use."""
        config = {"lm": self.lm.config(), "tokenizer": self.tokenizer.fingerprint}
        total = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
        total.update(checksum(self.lm).numpy().tobytes())
        return total.hexdigest()


def check_tokenizer(tokenizer: Tokenizer) -> None:
    """Raise InputError unless the tokenizer marks the start and end of texts and pads to the
    longest."""
    if not tokenizer.before or tokenizer.eot is None or tokenizer.padding == "max":
        raise InputError(
            f"a language model needs a tokenizer that marks where texts start and end and pads to the longest, which "
            f"this {tokenizer.kind!r} does not; choose bpe or clip"
        )


def _texts(texts: str | Sequence[str], what: str) -> list[str]:
    texts = [texts] if isinstance(texts, str) else texts
    if isinstance(texts, Tensor) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"a language model reads texts and no images; give {what} as strings")
    return list(texts)
