"""Trained concepts in place of a text tower's output, and the classifier that uses them (ConES).

    E_c (L, E)    the rows of concept c: behind the text tower's final norm and projection, before any similarity or
                  fusion; some or all of them are learnt

One row, L = 1, stands for the text tower's pooled output; several stand for its outputs at the
tokens. Once there are rows, the text tower is not needed: neither in training, where no gradient
passes through it, nor afterwards.

Dimensions: C concepts, L rows of a concept, R rows that are learnt, E embedding, N images or texts.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.models.class_names import check_names, prompt_ids, split_prompt
from diptych.models.classifier import Classifier
from diptych.models.delivered import Delivered
from diptych.towers.dual import DualEncoder

Form = Literal["pooled", "name", "prompt"]
"""What the rows of a concept are: the pooled vector of its prompt, the tokens of its name in the
prompt, or all tokens."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The initial state of a concept: rows (L, E), and which of them are trainable."""

    values: Tensor
    learnt: Sequence[bool]


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return rows (L_c, E) of several concepts as (C, L, E), and a mask of the existing ones (C,
    L).

    >>> padded([torch.ones(1, 2), torch.ones(2, 2)])[1].tolist()
    [[True, False], [True, True]]
    """
    values = pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(each) for each in rows], device=values.device)
    return values, torch.arange(values.shape[1], device=values.device) < lengths[:, None]


class ConceptBank(nn.Module):
    """Concepts by name, as rows in place of a text tower's output: `vectors` (R, E) are trained,
    `fixed` are not.

    >>> bank = ConceptBank(2)
    >>> bank.fill({"dax": Rows(torch.ones(1, 2), [True]), "wug": Rows(torch.zeros(2, 2), [True, False])})
    >>> rows, mask = bank.as_text_embeddings()
    >>> rows.shape, mask.tolist(), bank.vectors.shape
    (torch.Size([2, 2, 2]), [[True, False], [True, True]], torch.Size([2, 2]))
    """

    fixed: Tensor
    norms: Tensor
    rows: Tensor

    def __init__(self, embed_dim: int):
        super().__init__()
        self.embed_dim = embed_dim
        self.lay({})

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts, in order."""
        return tuple(self.plan)

    def lay(self, plan: Mapping[str, Sequence[bool]]) -> None:
        """Allocate the concepts of a plan, which marks the trainable rows of each. The plan is
        plain values, stored as JSON."""
        self.plan = {name: [bool(each) for each in learnt] for name, learnt in plan.items()}
        counts = {True: 0, False: 0}
        places: list[Tensor] = []
        learnt_rows = sum(sum(learnt) for learnt in self.plan.values())
        for learnt in self.plan.values():
            row = []
            for each in learnt:
                row.append(counts[each] + (0 if each else learnt_rows))
                counts[each] += 1
            places.append(torch.tensor(row, dtype=torch.int64))
        self.vectors = nn.Parameter(torch.zeros(counts[True], self.embed_dim))
        self.register_buffer("norms", torch.zeros(counts[True]))
        self.register_buffer("fixed", torch.zeros(counts[False], self.embed_dim))
        rows = (
            pad_sequence(places, batch_first=True, padding_value=-1)
            if places
            else torch.empty(0, 0).long()
        )
        self.register_buffer("rows", rows, persistent=False)  # follows from the plan

    @torch.no_grad()
    def fill(self, concepts: Mapping[str, Rows]) -> None:
        """Replace all concepts by these."""
        self.lay({name: each.learnt for name, each in concepts.items()})
        for name, each in concepts.items():
            assert len(each.values) == len(each.learnt), name
        values = torch.cat([each.values for each in concepts.values()])
        learnt = torch.tensor([flag for each in concepts.values() for flag in each.learnt])
        self.begin(values[learnt])
        self.fixed.copy_(values[~learnt])

    @torch.no_grad()
    def begin(self, vectors: Tensor) -> None:
        """Set the trainable rows to these initial values (R, E)."""
        self.vectors.copy_(vectors)
        self.norms.copy_(self.vectors.norm(dim=1))

    def as_text_embeddings(self) -> tuple[Tensor, Tensor]:
        """Return the rows (C, L, E), as a text tower would, and a mask of the existing ones (C,
        L)."""
        mask = self.rows >= 0
        table = torch.cat([self.vectors, self.fixed])
        return table[self.rows.clamp(min=0)] * mask[..., None], mask

    @torch.no_grad()
    def keep_norms(self) -> None:
        """Rescale each trainable row to its initial length."""
        self.vectors.mul_((self.norms / self.vectors.norm(dim=1).clamp(min=1e-12))[:, None])

    def save(self, path: str | Path) -> None:
        """Write the bank alone, a few kilobytes, for a model whose encoder is available."""
        state = {
            name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()
        }
        write_atomic(
            Path(path),
            lambda temporary: save_file(state, temporary, {"concepts": json.dumps(self.plan)}),
        )

    @classmethod
    def load(cls, path: str | Path) -> "ConceptBank":
        """Read a bank that `save` wrote. Raises InputError for a file that contains none."""
        try:
            with safe_open(str(path), "pt") as file:
                plan = json.loads((file.metadata() or {})["concepts"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
            bank = cls(state["vectors"].shape[1])
            bank.lay(plan)
            bank.load_state_dict(state)
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{path} holds no bank of concepts ({error}); name a file that ConceptBank.save wrote"
            ) from None
        return bank


class TextSide(nn.Module):
    """The text tower of a dual encoder with its projection, tokenizer and prompt: names to rows,
    without gradient.

    It may outlive the encoder's text tower, which is dropped once the concepts are initialised.
    """

    def __init__(self, encoder: DualEncoder, tokenizer: Tokenizer, template: str):
        super().__init__()
        assert encoder.text is not None, "whoever has no text tower has no side"
        self.text = encoder.text
        self.projection = encoder.text_projection
        self.tokenizer = tokenizer
        self.template = template

    @torch.no_grad()
    def tokens(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids of texts -> rows (N, L, E), one for each token, and a mask of the existing ones
        (N, L)."""
        return self.encode(*pad_batch(rows, self.tokenizer))

    @torch.no_grad()
    def encode(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `tokens`, for padded ids (N, L) with lengths (N,)."""
        device = next(self.text.parameters()).device
        ids = ids.to(device)
        lengths = lengths.to(device)
        encoded = self.text(ids, lengths)
        mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
        if self.tokenizer.padding == "max":  # this tower reads its padding
            mask = torch.ones_like(mask)
        return self.projection(encoded.tokens), mask  # type: ignore[misc]

    @torch.no_grad()
    def concepts(
        self, names: Sequence[str], form: Form, count: int | None = None
    ) -> dict[str, Rows]:
        """Return names as rows. `count` is the number of rows for a name, whose tokens are repeated
        in order (None: each token once).

        Raises InputError for a name that does not fit the context.
        """
        prompts = prompt_ids(self.tokenizer, self.template, names)
        if form == "pooled":
            device = next(self.text.parameters()).device
            ids, lengths = (part.to(device) for part in pad_batch(prompts, self.tokenizer))
            vectors = self.projection(self.text(ids, lengths).pooled)  # type: ignore[misc]
            return {
                name: Rows(vector[None], [True])
                for name, vector in zip(names, vectors, strict=True)
            }
        found = {}
        (values, mask) = self.tokens(prompts)
        for at, name in enumerate(names):
            words, named, _ = split_prompt(self.tokenizer, self.template, name)
            start = len(self.tokenizer.before) + len(words)
            if form == "prompt":
                rows = values[at][mask[at]]
                inside = range(start, start + len(named))
                found[name] = Rows(rows, [place in inside for place in range(len(rows))])
            else:
                rows = values[at, start : start + len(named)]
                repeated = rows[torch.arange(count or len(rows)) % len(rows)]
                found[name] = Rows(repeated, [True] * len(repeated))
        return found


class ConceptModule(Delivered):
    """Base of delivered modules with an encoder and a bank of concepts. Names beside the trained
    ones can be used as long as the encoder has its text tower.

    A subclass sets `encoder`, `tokenizer`, `template`, `bank`, `classes` and `label` in `__init__`.
    """

    form: Form
    tokenizer: Any
    template: str
    bank: ConceptBank
    classes: tuple[str, ...]
    encoder: DualEncoder
    count: int | None = None
    """The number of rows of an ordinary name, as in `TextSide.concepts`."""

    def side(self) -> TextSide | None:
        """Return the text side, or None if the encoder has none."""
        if self.encoder.text is None or self.tokenizer is None:
            return None
        return TextSide(self.encoder, self.tokenizer, self.template)

    def leave_text(self) -> None:
        """Drop the text tower and the tokenizer; from then on only concepts of the bank can be
        named."""
        self.encoder.text = self.encoder.text_projection = self.tokenizer = None

    def learn(self, concepts: Mapping[str, Rows]) -> None:
        """Set the concepts to train, and make them the classes."""
        self.bank.fill(concepts)
        self.set_classes(tuple(concepts))

    def set_classes(self, names: Sequence[str]) -> None:
        """Set the class names.

        Raises InputError as `check_names` does, for a name that does not fit the context, and for
        one that was not trained if there is no text tower.
        """
        classes = check_names(names)
        other = [name for name in classes if name not in self.bank.plan]
        if other:
            side = self.side()
            if side is None:
                some = ", ".join(self.bank.names[:5]) + (", …" if len(self.bank.names) > 5 else "")
                raise InputError(
                    f"{other[0]!r} is no concept that was learnt ({some or 'none was'}), and the text "
                    "tower, which knows other names, was left out; name learnt ones, or train with "
                    "--method.keep_text true"
                )
            prompt_ids(side.tokenizer, side.template, other)
        self.classes = classes

    def class_rows(self) -> tuple[Tensor, Tensor]:
        """Return the classes as rows (C, L, E), trained or from the text tower, and a mask of the
        existing ones (C, L)."""
        values, mask = self.bank.as_text_embeddings()
        if self.classes == self.bank.names:
            return values, mask
        other = [name for name in self.classes if name not in self.bank.plan]
        side = self.side()
        reported = side.concepts(other, self.form, self.count) if other and side is not None else {}
        own = dict(zip(self.bank.names, zip(values, mask, strict=True), strict=True))
        return padded(
            [
                reported[name].values if name in reported else own[name][0][own[name][1]]
                for name in self.classes
            ]
        )

    def extra_state(self) -> dict[str, Any]:
        return {"concepts": self.bank.plan, "classes": list(self.classes)}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        self.bank.lay(values["concepts"])
        if values["classes"]:
            self.set_classes(values["classes"])


class ConceptClassifier(ConceptModule, Classifier):
    """A classifier of concepts, one row each: logits_c = s <x, E_c / ||E_c||>."""

    form = "pooled"

    def __init__(
        self, encoder: DualEncoder, tokenizer: Tokenizer | None, template: str = "a photo of a {}."
    ):
        Classifier.__init__(self, encoder, tokenizer, template, frozen=False)  # type: ignore[arg-type]
        self.bank = ConceptBank(encoder.embed_dim)

    def set_classes(self, names: Sequence[str]) -> None:
        super().set_classes(names)
        self._still = None

    def text_features(self) -> Tensor:
        return normalize(self.class_rows()[0][:, 0], dim=-1)

    def image_means(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean unit vector (C, E) of the images of each class. Raises InputError for a
        class without images."""
        C = len(self.bank.names)
        counts = torch.bincount(labels, minlength=C)
        if not bool((counts > 0).all()):
            name = self.bank.names[int((counts == 0).nonzero()[0])]
            raise InputError(
                f"no image is of {name!r}, so it cannot begin as the mean of its images; start=names"
            )
        total = features.new_zeros(C, features.shape[1]).index_add_(0, labels, features)
        return total / counts[:, None]
