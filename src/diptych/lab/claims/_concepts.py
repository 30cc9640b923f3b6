"""Searches for concepts in detection and drawing: by `cones`, and by what it is compared with.

    E_c = text([…, v, …])

In the comparisons the rows come through the text tower. Trained input vectors v take the places of
the words before a name (prompt tuning), or of the name itself (textual inversion). All else is that
of `cones`: head, losses, data and stages.

Dimensions: C concepts, L tokens of a prompt, R rows of a concept, V vectors, D text width, E
embedding.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diptych.data.sources import open_source
from diptych.data.tokenizers import pad_batch
from diptych.evaluation import evaluate
from diptych.lab.claim import Trial
from diptych.methods.adapt.cones.bank import ConceptBank, Form, Rows, TextSide
from diptych.methods.base import Method
from diptych.methods.store import load
from diptych.models.class_names import prompt_ids, split_prompt
from diptych.training.config import resolve
from diptych.training.run import run

RECIPE = {"optimizer": "adamw", "betas": (0.9, 0.999), "weight_decay": 0.0, "warmup": 0.0}
STILL = 1e-30  # a rate that moves nothing

Place = Literal["context", "name"]
"""Which tokens of a prompt the vectors replace: the words before the name, or those of the name."""


class PromptedBank(ConceptBank):
    """Concepts whose rows are a text tower's outputs for prompts with trained input vectors.

    Each concept has vectors of its own, `vectors` (V, D), which begin as the embeddings of the
    tokens that they replace: after zero steps the rows are those of the names. Stored are the rows
    that were reached, as in any `ConceptBank`.
    """

    def __init__(self, embed_dim: int, side: TextSide, form: Form, place: Place):
        super().__init__(embed_dim)
        self.form = form
        self.place = place
        self._side = (side,)  # in a tuple, so that its weights are none of this module's

    @torch.no_grad()
    def fill(self, concepts: Mapping[str, Rows]) -> None:
        super().fill(concepts)
        side: Any = self._side[0]
        prompts = prompt_ids(side.tokenizer, side.template, self.names)
        ids, self.lengths = pad_batch(prompts, side.tokenizer)
        self.tokens = side.text.table(ids)  # (C, L, D)
        self.replaced = torch.zeros(ids.shape, dtype=torch.bool)  # (C, L)
        self.places = torch.full(self.rows.shape, -1)  # (C, R): the token of each row
        for at, name in enumerate(self.names):
            words, named, _ = split_prompt(side.tokenizer, side.template, name)
            first = len(side.tokenizer.before)
            start = first + len(words)
            end = start + len(named)
            if self.place == "name":
                self.replaced[at, start:end] = True
            else:
                self.replaced[at, first:start] = True
            shown = (
                torch.arange(start, end)
                if self.form == "name"
                else torch.arange(int(self.lengths[at]))
            )
            self.places[at, : len(shown)] = shown
        self.vectors = nn.Parameter(self.tokens[self.replaced])

    def as_text_embeddings(self) -> tuple[Tensor, Tensor]:
        side: Any = self._side[0]
        embeddings = self.tokens.masked_scatter(self.replaced[..., None], self.vectors)
        values = side.projection(side.text(None, self.lengths, embeddings=embeddings).tokens)
        mask = self.places >= 0
        at = self.places.clamp(min=0)[..., None].expand(-1, -1, values.shape[-1])
        return values.gather(1, at) * mask[..., None], mask

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.plan:
            return
        with torch.no_grad():
            values, mask = self.as_text_embeddings()
        learnt = torch.tensor([flag for flags in self.plan.values() for flag in flags])
        destination[f"{prefix}vectors"] = values[mask][learnt]
        destination[f"{prefix}fixed"] = values[mask][~learnt]


def prompted(place: Place) -> Callable[[Method], None]:
    """Return a change of `cones` after which its rows come through the text tower."""

    def change(method: Any) -> None:
        model = method.model
        model.bank = PromptedBank(model.encoder.embed_dim, method.side.module, model.form, place)

    return change


def searched(
    trial: Trial,
    name: str,
    task: str,
    data: Mapping[str, str],
    start: str,
    *,
    rate: float = STILL,
    steps: int = 1,
    place: Place | None = None,
    **config: Any,
) -> str:
    """The folder of a run of `cones` for a task: rows of its own, or with a `place` those of
    prompts through the text tower."""
    out = str(trial.folder / name)
    base = config.get("base")
    if base is not None:
        config["base"] = {**base, "steps": 5 if trial.quick else base["steps"]}
    run(
        resolve(
            "cones",
            data,
            preset=task,
            init=start,
            config=config,
            recipe={**RECIPE, "lr": rate, "steps": trial.steps(steps, quick=5), "batch_size": 16},
            options={"seed": trial.seed, "quiet": True},
        ),
        out,
        change=None if place is None else prompted(place),
    )
    return out


def precision(folder: str, data: str) -> dict[str, float]:
    """The average precision of the boxes of a run, and of its masks where it finds any."""
    found = evaluate(load(folder), open_source(data), ["detection"])["detection"]
    return {name: found[name] for name in ("ap50", "mask_ap50") if name in found}
