"""A view of the edits of a sample: images and texts that differ from its own by one change.

Dimensions: B samples, R edits, L text length, H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diptych.data.images import Preprocess
from diptych.data.sample import BadSample, Sample
from diptych.data.tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class EditsView:
    """The edits of a sample: images (B, R, 3, H, W) with a `preprocess`, texts (B, R, L) with a
    `tokenizer`, and fields.NAME.there (B, R), which of the `max_edits` = R rows are real.

    `kinds` are the kinds of edits to give, in this order, () for all in the sample's order; edits
    that lack the image or text are left out. Of more than `max_edits`, random ones are drawn in
    training, else the first ones are given. A text is the first one of role `role`. Raises
    BadSample if an edit has no kind, or if no edit of the sample has what the view reads.
    """

    max_edits: int
    kinds: Sequence[str] = ()
    name: str = "edits"
    preprocess: Preprocess | None = None
    tokenizer: Tokenizer | None = None
    role: str = "caption"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("edits",)

    @property
    def gives(self) -> tuple[str, ...]:
        images = () if self.preprocess is None else (f"images.{self.name}",)
        texts = () if self.tokenizer is None else (f"texts.{self.name}",)
        return *images, *texts, f"fields.{self.name}.there"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        edits = self._chosen(sample, rng, progress)
        found: dict[str, Any] = {}
        if self.preprocess is not None:
            pixels = torch.zeros(self.max_edits, *self.preprocess.shape, dtype=torch.uint8)
            for row, edit in zip(pixels, edits, strict=False):
                row[:] = self.preprocess.read(edit.images["main"])
            found[f"images.{self.name}"] = pixels
        if self.tokenizer is not None:
            texts = [edit.captions(self.role)[0] for edit in edits]
            found[f"texts.{self.name}"] = self.tokenizer.encode(
                texts + [""] * (self.max_edits - len(texts))
            )
        there = torch.arange(self.max_edits) < len(edits)
        return {**found, f"fields.{self.name}.there": there}

    def _chosen(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> list[Sample]:
        """The edits of the view's kinds that have what it reads, at most `max_edits`."""
        for edit in sample.edits:
            if not edit.kind:
                raise BadSample("edit-without-kind", "an edit does not say what it changes")
        edits = [edit for edit in sample.edits if self._lacks(edit) == ""]
        if sample.edits and not edits:
            edit = sample.edits[0]
            raise BadSample("no-edit", f"edit {edit.kind!r}, like all others, {self._lacks(edit)}")
        if self.kinds:
            edits = [edit for kind in self.kinds for edit in edits if edit.kind == kind]
        if len(edits) > self.max_edits and progress is not None:
            edits = [edits[at] for at in sorted(rng.permutation(len(edits))[: self.max_edits])]
        return edits[: self.max_edits]

    def _lacks(self, edit: Sample) -> str:
        """What the view reads and an edit does not have."""
        if self.preprocess is not None and "main" not in edit.images:
            return "has no image"
        if self.tokenizer is not None and not edit.captions(self.role):
            return f"has no text of role {self.role!r}"
        return ""
