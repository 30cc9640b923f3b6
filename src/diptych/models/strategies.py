"""Strategies of decoding: how the next tokens are chosen from what a decoder predicts.

    greedy        the most probable token
    sample        a token sampled at a temperature from the `top_k` most probable ones, and from the smallest set of
                  most probable ones with probability `top_p` (nucleus; Holtzman et al., 2020)
    typical       a token sampled from those whose information -log p is nearest to the entropy (Meister et al., 2023)
    contrastive   of the k most probable tokens the one that is probable and unlike what was read (Su et al., 2022)
    beam          the most probable text found by a search with `beams` hypotheses

A decoder has `context`, `start(ids, mask, memory, prefix) -> state`, `next(state, ids) -> state` and
`peek(state, candidates)`; a state has `logits`, `hidden`, `mask` and `select(index)` (see
`models.causal_lm`). A strategy that chooses token by token is a subclass of `Stepwise` with `choose`;
one that searches implements `run`.

Dimensions: B prompts, N tokens read so far, V vocabulary, D width, K beams, k candidates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.dtypes import at_least_float32
from diptych.errors import InputError, unknown
from diptych.models.state import Decoder, State
from diptych.spec import Above, AtMost, Count, Natural, Share, configure, parse


@dataclass(frozen=True)
class Limits:
    """Limits of lengths: row b has at least `min_tokens` and at most `max_tokens[b]` new tokens, and ends
    before `eot`."""

    max_tokens: Sequence[int]
    min_tokens: int
    eot: int | None

    def allowed(self, state: State, step: int) -> State:
        """The state with `eot` made impossible while texts are too short."""
        if self.eot is None or step >= self.min_tokens:
            return state
        logits = state.logits.clone()
        logits[:, self.eot] = -torch.inf
        return replace(state, logits=logits)


class Stepwise:
    """A strategy that chooses one token after another, for each row independently."""

    def choose(
        self, lm: Decoder, state: State, step: int, draws: Tensor
    ) -> tuple[Tensor, State | None]:
        """The next token of each row (B,), and the state after it if already computed.

        `step` is the number of tokens generated before; `draws` (B,), float64, are uniform in [0,
        1), one per row.
        """
        raise NotImplementedError

    def run(self, lm: Decoder, state: State, limits: Limits, draws: Tensor) -> list[list[int]]:
        """The new tokens of each row, without `eot`; `draws` are (B, most tokens). Finished rows
        are dropped."""
        found: list[list[int]] = [[] for _ in limits.max_tokens]
        rows = list(range(len(found)))
        for step in range(max(limits.max_tokens)):
            state = limits.allowed(state, step)
            ids, after = self.choose(lm, state, step, draws[rows, step])
            going = []
            for place, (row, token) in enumerate(zip(rows, ids.tolist(), strict=True)):
                if token == limits.eot:
                    continue
                found[row].append(token)
                if len(found[row]) < limits.max_tokens[row]:
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
        self, lm: Decoder, state: State, step: int, draws: Tensor
    ) -> tuple[Tensor, State | None]:
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
        self, lm: Decoder, state: State, step: int, draws: Tensor
    ) -> tuple[Tensor, State | None]:
        return drawn(self.probabilities(state.logits), draws), None

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution to sample from (B, V), float64.

        >>> logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
        >>> Sample(top_p=0.7).probabilities(logits).round(decimals=4).tolist()
        [[0.625, 0.375, 0.0, 0.0]]
        """
        logits = logits.double() / self.temperature
        if self.top_k is None and self.top_p == 1:
            return logits.softmax(-1)  # nothing is cut, so nothing needs sorting
        ordered, index = logits.sort(dim=-1, descending=True, stable=True)
        if self.top_k is not None:
            ordered[:, self.top_k :] = -torch.inf
        probability = ordered.softmax(-1)
        before = probability.cumsum(-1) - probability
        kept = torch.where(before < self.top_p, probability, 0.0)
        return torch.zeros_like(kept).scatter(1, index, kept / kept.sum(-1, keepdim=True))


def drawn(probabilities: Tensor, draws: Tensor) -> Tensor:
    """The tokens (B,) that uniform numbers `draws` (B,) select from distributions (B, V)."""
    total = probabilities.cumsum(-1)
    found = torch.searchsorted(total, (draws * total[:, -1])[:, None], right=True)[:, 0]
    return found.clamp(max=total.shape[1] - 1)


@dataclass(frozen=True, kw_only=True)
class Typical(Stepwise):
    """Sampling from the tokens whose information is nearest to what the model expects: the smallest
    set of them with probability `mass`.

        | -log p(v) - H(p) |  ascending,      H(p) = -Σ p log p
    """

    mass: Annotated[float, Above(0), AtMost(1)] = 0.95

    def choose(
        self, lm: Decoder, state: State, step: int, draws: Tensor
    ) -> tuple[Tensor, State | None]:
        return drawn(self.probabilities(state.logits), draws), None

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution to sample from (B, V), float64.

        >>> logits = torch.tensor([[0.7, 0.1, 0.1, 0.1]]).log()  # of entropy .94; -log .1 is 2.30
        >>> Typical(mass=0.5).probabilities(logits).round(decimals=4).tolist()
        [[1.0, 0.0, 0.0, 0.0]]
        """
        log_p = logits.double().log_softmax(-1)
        p = log_p.exp()
        entropy = -torch.where(p > 0, p * log_p, 0.0).sum(-1, keepdim=True)
        index = (-log_p - entropy).abs().sort(dim=-1, stable=True).indices
        ordered = p.gather(1, index)
        before = ordered.cumsum(-1) - ordered
        kept = torch.where(before < self.mass, ordered, 0.0)
        return torch.zeros_like(p).scatter(1, index, kept / kept.sum(-1, keepdim=True))


@dataclass(frozen=True, kw_only=True)
class Contrastive(Stepwise):
    """Contrastive search: of the `k` most probable tokens v the one with the largest

        (1 - alpha) p(v) - alpha max_{j < t} cos(h_v, h_j)

    p is the probability over the whole vocabulary, h the tokens after the final norm, h_v that of v
    read as the next token, and j runs over the real tokens read so far, a prefix included. With
    `block_prompt` it runs over generated tokens alone; the first of these is then the most probable
    one. The first `sampled` tokens are drawn from the nucleus of `top_p` instead. Equal scores: the
    more probable token. k = 1 and alpha = 0 are greedy. Deterministic if `sampled` is 0.

    Source: Su et al., 2022; Su and Collier, 2023.
    """

    k: Count = 5
    alpha: Share = 0.6
    block_prompt: bool = False
    sampled: Natural = 0
    top_p: Annotated[float, Above(0), AtMost(1)] = 0.95

    def choose(
        self, lm: Decoder, state: State, step: int, draws: Tensor
    ) -> tuple[Tensor, State | None]:
        if step < self.sampled:
            return Sample(top_p=self.top_p).choose(lm, state, step, draws)
        candidates, p = self.candidates(state.logits)
        if candidates.shape[1] == 1:
            return candidates[:, 0], None
        peek = lm.peek(state, candidates)
        earlier = state.mask
        if self.block_prompt:
            prompt = state.mask.shape[1] - step
            earlier = earlier & (torch.arange(state.mask.shape[1], device=p.device) >= prompt)
        penalty = self.penalty(peek.hidden, state.hidden, earlier)
        score = (1 - self.alpha) * p - self.alpha * penalty
        score = score.masked_fill(p == 0, -torch.inf)  # an impossible token at alpha 1
        best = (score == score.amax(1, keepdim=True)).int().argmax(1)
        return candidates.gather(1, best[:, None])[:, 0], peek.take(best)

    def penalty(self, hidden: Tensor, earlier: Tensor, mask: Tensor) -> Tensor:
        """The penalty of each candidate (B, k), of tokens as in `likeness`."""
        return likeness(hidden, earlier, mask)

    def candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The k most probable tokens (B, k), the one of greedy decoding first, and their
        probabilities, float64.

        >>> Contrastive(k=2).candidates(torch.tensor([[0.1, 0.6, 0.3]]).log())
        (tensor([[1, 2]]), tensor([[0.6000, 0.3000]], dtype=torch.float64))
        """
        # `topk` orders equal logits arbitrarily
        first = logits.argmax(-1, keepdim=True)
        k = min(self.k, logits.shape[1])
        others = logits.scatter(1, first, -torch.inf).topk(k - 1).indices
        found = torch.cat([first, others], 1)
        log_p = logits.gather(1, found).double() - logits.double().logsumexp(-1, keepdim=True)
        return found, log_p.exp()


def likeness(hidden: Tensor, earlier: Tensor, mask: Tensor) -> Tensor:
    """The largest cosine of each of hidden (B, k, D) with the tokens `earlier` (B, N, D) where the
    mask (B, N) is True, (B, k); 0 where it is True nowhere.

    >>> hidden = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]])
    >>> likeness(hidden, torch.eye(2)[None], torch.ones(1, 2, dtype=torch.bool)).tolist()
    [[1.0, 0.800000011920929, 0.0]]
    """
    hidden = normalize(at_least_float32(hidden), dim=-1)
    earlier = normalize(at_least_float32(earlier), dim=-1)
    cosine = (hidden @ earlier.mT).masked_fill(~mask[:, None], -torch.inf)
    return torch.where(mask.any(1, keepdim=True), cosine.amax(-1), 0.0)


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

    def run(self, lm: Decoder, state: State, limits: Limits, draws: Tensor) -> list[list[int]]:
        """The new tokens of each row, without `eot`."""
        K = self.beams
        device = state.logits.device
        rows = list(range(len(limits.max_tokens)))
        state = state.select(torch.arange(len(rows), device=device).repeat_interleave(K))
        score = torch.full((len(rows), K), -torch.inf, dtype=torch.float64, device=device)
        score[:, 0] = 0  # all K hypotheses are the same prompt: start from one
        texts: list[list[list[int]]] = [[[] for _ in range(K)] for _ in rows]
        ended: list[list[tuple[float, list[int]]]] = [[] for _ in rows]
        for step in range(max(limits.max_tokens)):
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
                    elif step + 1 == limits.max_tokens[row]:
                        ended[row].append(
                            (self._rated(value, step + 1), [*texts[place][beam], token])
                        )
                    else:
                        hypotheses.append((value, beam, token))
                ended[row] = sorted(ended[row], key=lambda text: -text[0])[:K]
                if hypotheses and not self._settled(
                    ended[row], hypotheses[0][0], limits.max_tokens[row]
                ):
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


STRATEGIES: dict[str, type[Any]] = {
    "greedy": Greedy,
    "sample": Sample,
    "typical": Typical,
    "contrastive": Contrastive,
    "beam": Beam,
}
"""Name -> a frozen dataclass of options with `run(lm, state, limits, draws) -> new tokens of each
row`."""


def strategy_of(spec: str, options: Mapping[str, Any] | None = None) -> Any:
    """The strategy of a spec such as `contrastive:k=5:alpha=0.6`, with further options. Raises
    InputError for an unknown strategy or option, and an option that is given twice.

    >>> strategy_of("sample:top_p=0.9", {"temperature": 0.8})
    Sample(temperature=0.8, top_k=None, top_p=0.9)
    >>> strategy_of("sampel")
    Traceback (most recent call last):
    diptych.errors.InputError: unknown strategy 'sampel'; did you mean 'sample'?
    """
    parsed = parse(spec)
    options = options or {}
    if parsed.name not in STRATEGIES:
        raise unknown("strategy", parsed.name, STRATEGIES)
    twice = sorted(parsed.options.keys() & options.keys())
    if twice:
        raise InputError(f"{twice[0]!r} is given beside strategy {spec!r} too; give it once")
    return configure(
        STRATEGIES[parsed.name], {**parsed.options, **options}, f"strategy {parsed.name!r}"
    )
