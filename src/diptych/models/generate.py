"""Generation: one `generate` for every causal decoder, with a strategy of `STRATEGIES`.

    greedy   the most probable token
    sample   a token sampled at a temperature from the `top_k` most probable ones, and from the smallest set of
             most probable ones with probability `top_p` (nucleus; Holtzman et al., 2020)
    beam     the most probable text found by a search with `beams` hypotheses

A decoder has `context`, `start(ids, mask, memory, prefix) -> state` and `next(state, ids) ->
state`; a state has `logits`, `mask` and `select(index)` (see `models.language`). A strategy that
chooses token by token is a subclass of `Stepwise` with `choose`; one that searches implements
`run`.

Dimensions: B prompts, V vocabulary, K beams.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from diptych.errors import InputError, unknown
from diptych.rng import generator
from diptych.spec import configure
from diptych.towers.nn.kv_cache import KVCache


@dataclass(frozen=True, eq=False)
class State:
    """The state of a decoder after the N tokens that it has read, prefix included. It is
    immutable."""

    logits: Tensor  # (B, V), of the next token
    hidden: Tensor  # (B, N, D), after the final norm, from which logits are computed
    mask: Tensor  # (B, N) bool, True where a token is real
    cache: KVCache
    memory: Tensor | None = None
    memory_mask: Tensor | None = None

    def select(self, index: Tensor) -> "State":
        """The state of the rows `index` (N,), which may repeat (candidates, beams, unfinished
        rows)."""

        def of(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[index]

        logits = self.logits[index]
        hidden = self.hidden[index]
        mask = self.mask[index]
        return State(
            logits, hidden, mask, self.cache.select(index), of(self.memory), of(self.memory_mask)
        )


class Decoder(Protocol):
    """The interface of a decoder for `generate`."""

    @property
    def context(self) -> int: ...

    def start(
        self,
        ids: Tensor | None,
        mask: Tensor | None,
        memory: Tensor | None,
        prefix: Tensor | None,
        *,
        memory_mask: Tensor | None,
    ) -> "State": ...

    def next(self, state: "State", ids: Tensor) -> "State": ...


@dataclass(frozen=True)
class Limits:
    """Limits of lengths: row b has at least `least` and at most `most[b]` new tokens, and ends
    before `eot`."""

    most: Sequence[int]
    least: int
    eot: int | None

    def allowed(self, state: "State", step: int) -> "State":
        """The state with `eot` made impossible while texts are too short."""
        if self.eot is None or step >= self.least:
            return state
        logits = state.logits.clone()
        logits[:, self.eot] = -torch.inf
        return replace(state, logits=logits)


class Stepwise:
    """A strategy that chooses one token after another, for each row independently."""

    def choose(
        self, lm: Decoder, state: "State", step: int, draws: Tensor
    ) -> tuple[Tensor, "State | None"]:
        """The next token of each row (B,), and the state after it if already computed.

        `step` is the number of tokens generated before; `draws` (B,), float64, are uniform in [0,
        1), one per row.
        """
        raise NotImplementedError

    def run(self, lm: Decoder, state: "State", limits: Limits, draws: Tensor) -> list[list[int]]:
        """The new tokens of each row, without `eot`; `draws` are (B, most tokens). Finished rows
        are dropped."""
        found: list[list[int]] = [[] for _ in limits.most]
        rows = list(range(len(found)))
        for step in range(max(limits.most)):
            state = limits.allowed(state, step)
            ids, after = self.choose(lm, state, step, draws[rows, step])
            going = []
            for place, (row, token) in enumerate(zip(rows, ids.tolist(), strict=True)):
                if token == limits.eot:
                    continue
                found[row].append(token)
                if len(found[row]) < limits.most[row]:
                    going.append(place)
            if not going:
                break
            if len(going) < len(rows):
                keep = torch.tensor(going, device=ids.device)
                rows = [rows[place] for place in going]
                ids = ids[keep]
                state, after = (
                    (state, after.select(keep)) if after is not None else (state.select(keep), None)
                )
            state = lm.next(state, ids) if after is None else after
        return found


@dataclass(frozen=True, kw_only=True)
class Greedy(Stepwise):
    """Always the most probable token. Deterministic."""

    def choose(
        self, lm: Decoder, state: "State", step: int, draws: Tensor
    ) -> tuple[Tensor, "State | None"]:
        return state.logits.argmax(-1), None


@dataclass(frozen=True, kw_only=True)
class Sample(Stepwise):
    """Sampling: logits over `temperature`, the `top_k` most probable tokens, then the nucleus of
    `top_p`."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 0.95

    def __post_init__(self):
        if not self.temperature > 0:
            raise InputError(
                f"temperature is {self.temperature}; it must be above 0 (or choose strategy greedy)"
            )
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k is {self.top_k}; it is a number of tokens, such as 50")
        if not 0 < self.top_p <= 1:
            raise InputError(
                f"top_p is {self.top_p}; it is a share of probability above 0, at most 1"
            )

    def choose(
        self, lm: Decoder, state: "State", step: int, draws: Tensor
    ) -> tuple[Tensor, "State | None"]:
        total = self.probabilities(state.logits).cumsum(-1)
        found = torch.searchsorted(total, (draws * total[:, -1])[:, None], right=True)[:, 0]
        return found.clamp(max=total.shape[1] - 1), None

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution to sample from (B, V), float64.

        >>> logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
        >>> Sample(top_p=0.7).probabilities(logits).round(decimals=4).tolist()
        [[0.625, 0.375, 0.0, 0.0]]
        """
        logits = logits.double() / self.temperature
        ordered, index = logits.sort(dim=-1, descending=True, stable=True)
        if self.top_k is not None:
            ordered[:, self.top_k :] = -torch.inf
        probability = ordered.softmax(-1)
        before = probability.cumsum(-1) - probability
        kept = torch.where(before < self.top_p, probability, 0.0)
        return torch.zeros_like(kept).scatter(1, index, kept / kept.sum(-1, keepdim=True))


@dataclass(frozen=True, kw_only=True)
class Beam:
    """Beam search with K hypotheses per prompt, scored by log p / length ** `length_penalty`.

    The length includes `eot`. A prompt's search ends when no hypothesis can beat its K best
    finished texts.
    """

    beams: int = 4
    length_penalty: float = 1.0

    def __post_init__(self):
        if self.beams < 1:
            raise InputError(f"beams is {self.beams}; it is a number of hypotheses, such as 4")
        if self.length_penalty < 0:
            raise InputError(
                f"length_penalty is {self.length_penalty}; 0 is none, 1 the mean over tokens"
            )

    def run(self, lm: Decoder, state: "State", limits: Limits, draws: Tensor) -> list[list[int]]:
        """The new tokens of each row, without `eot`."""
        K = self.beams
        device = state.logits.device
        rows = list(range(len(limits.most)))
        state = state.select(torch.arange(len(rows), device=device).repeat_interleave(K))
        score = torch.full((len(rows), K), -torch.inf, dtype=torch.float64, device=device)
        score[:, 0] = 0  # all K hypotheses are the same prompt: start from one
        texts: list[list[list[int]]] = [[[] for _ in range(K)] for _ in rows]
        ended: list[list[tuple[float, list[int]]]] = [[] for _ in rows]
        for step in range(max(limits.most)):
            logits = (
                limits.allowed(state, step)
                .logits.double()
                .log_softmax(-1)
                .unflatten(0, (len(rows), K))
            )
            V = logits.shape[-1]
            best, index = (score[..., None] + logits).flatten(1).topk(min(2 * K, K * V))
            going: list[
                tuple[int, list[tuple[float, int, int]]]
            ] = []  # unfinished rows: score, beam, token
            for place, (row, values, places) in enumerate(
                zip(rows, best.tolist(), index.tolist(), strict=True)
            ):
                hypotheses = []
                for value, at in zip(values, places, strict=True):
                    beam, token = divmod(at, V)
                    if value == -np.inf or len(hypotheses) == K:
                        break
                    if token == limits.eot:
                        ended[row].append((self._rated(value, step + 1), texts[place][beam]))
                    elif step + 1 == limits.most[row]:
                        ended[row].append(
                            (self._rated(value, step + 1), [*texts[place][beam], token])
                        )
                    else:
                        hypotheses.append((value, beam, token))
                ended[row] = sorted(ended[row], key=lambda text: -text[0])[:K]
                if hypotheses and not self._settled(ended[row], hypotheses[0][0], limits.most[row]):
                    going.append((place, hypotheses))
            if not going:
                break
            chosen = [
                (place, hypothesis) for place, found in going for hypothesis in self._filled(found)
            ]
            texts = [
                [[*texts[place][beam], token] for _, beam, token in self._filled(found)]
                for place, found in going
            ]
            score = torch.tensor(
                [value for _, (value, _, _) in chosen], dtype=torch.float64, device=device
            ).view(-1, K)
            keep = torch.tensor([place * K + beam for place, (_, beam, _) in chosen], device=device)
            rows = [rows[place] for place, _ in going]
            ids = torch.tensor([token for _, (_, _, token) in chosen], device=device)
            state = lm.next(state.select(keep), ids)
        return [texts[0][1] for texts in ended]

    def _rated(self, log_prob: float, length: int) -> float:
        return log_prob / length**self.length_penalty

    def _settled(self, ended: Sequence[tuple[float, list[int]]], best: float, most: int) -> bool:
        """Whether even the best hypothesis, with certain further tokens, would not be among the K
        best."""
        return len(ended) == self.beams and self._rated(best, most) <= ended[-1][0]

    def _filled(self, found: list[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
        """Exactly K hypotheses, padded with copies of the first of score -inf."""
        return found + [(-np.inf, *found[0][1:])] * (self.beams - len(found))


STRATEGIES: dict[str, type[Any]] = {"greedy": Greedy, "sample": Sample, "beam": Beam}
"""Name -> a frozen dataclass of options with `run(lm, state, limits, draws) -> new tokens of each
row`."""


def generate(
    lm: Decoder,
    ids: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    strategy: str = "greedy",
    max_tokens: int | None = None,
    min_tokens: int = 0,
    eot: int | None = None,
    seed: int = 0,
    row: int = 0,
    memory: Tensor | None = None,
    memory_mask: Tensor | None = None,
    prefix: Tensor | None = None,
    **options: Any,
) -> list[list[int]]:
    """Generate the tokens that follow each prompt, up to and without `eot`.

    The prompt is that of `lm.start`: ids (B, L), a prefix (B, P, D), a mask (B, P + L) of real
    tokens, a memory. At most `max_tokens` are generated (None: up to the context), at least
    `min_tokens`. The random numbers of row b depend only on (seed, `row` + b). `options` are those
    of the strategy. Gradients are disabled; the caller sets the mode (dropout). Raises InputError
    for an unknown strategy or option, and if the prompt leaves too little of the context.

    >>> from diptych.towers.build import text_tower
    >>> from diptych.models.language import CausalLM
    >>> lm = CausalLM(text_tower("text:width=32:depth=1", vocab_size=100, context=16))
    >>> [len(text) for text in generate(lm, torch.tensor([[1, 7], [1, 9]]), strategy="sample", max_tokens=5, seed=1)]
    [5, 5]
    """
    chosen = strategy_of(strategy, options)
    if max_tokens is not None and max_tokens < max(1, min_tokens):
        raise InputError(
            f"max_tokens is {max_tokens}; it must be at least 1, and at least min_tokens ({min_tokens})"
        )
    with torch.no_grad():
        state = lm.start(ids, mask, memory, prefix, memory_mask=memory_mask)
        room = (lm.context - state.mask.sum(1)).tolist()
        if min(room) < max(1, min_tokens, max_tokens or 0):
            raise InputError(
                f"a prompt of {lm.context - min(room)} tokens leaves {min(room)} of the context of {lm.context}; "
                "shorten it, or lower max_tokens or min_tokens"
            )
        most = room if max_tokens is None else [max_tokens] * len(room)
        numbers = [generator(seed, "generate", row + b).random(max(most)) for b in range(len(most))]
        draws = torch.from_numpy(np.stack(numbers)).to(state.logits.device)
        return chosen.run(lm, state, Limits(most, min_tokens, eot), draws)


def strategy_of(name: str, options: dict[str, Any]) -> Any:
    """The strategy of a name with its options. Raises InputError for unknown ones.

    >>> strategy_of("sampel", {})
    Traceback (most recent call last):
    diptych.errors.InputError: unknown strategy 'sampel'; did you mean 'sample'?
    """
    if name not in STRATEGIES:
        raise unknown("strategy", name, STRATEGIES)
    return configure(STRATEGIES[name], options, f"strategy {name!r}")
