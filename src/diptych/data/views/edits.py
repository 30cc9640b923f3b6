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
    `tokenizer`, and fields.NAME.there (B, R), which of the `most` = R rows are real.

    `kinds` are the kinds of edits to give, in this order, () for all in the sample's order. A text
    is the first one of role `role`. Raises BadSample if an edit has no kind, lacks its image or
    text, or if there are more than `most`.
    """

    most: int
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
        edits = self._chosen(sample)
        found: dict[str, Any] = {}
        if self.preprocess is not None:
            size = self.preprocess.size
            pixels = torch.zeros(self.most, 3, size, size, dtype=torch.uint8)
            for row, edit in zip(pixels, edits, strict=False):
                if "main" not in edit.images:
                    raise BadSample("no-edit-image", f"edit {edit.kind!r} has no image")
                row[:] = self.preprocess.read(edit.images["main"])
            found[f"images.{self.name}"] = pixels
        if self.tokenizer is not None:
            texts = [edit.captions(self.role)[:1] for edit in edits]
            for edit, text in zip(edits, texts, strict=True):
                if not text:
                    raise BadSample(
                        "no-edit-text", f"edit {edit.kind!r} has no text of role {self.role!r}"
                    )
            filled = [text[0] for text in texts] + [""] * (self.most - len(texts))
            found[f"texts.{self.name}"] = self.tokenizer.encode(filled)
        there = torch.arange(self.most) < len(edits)
        return {**found, f"fields.{self.name}.there": there}

    def _chosen(self, sample: Sample) -> list[Sample]:
        """The sample's edits of the view's kinds."""
        for edit in sample.edits:
            if not edit.kind:
                raise BadSample("edit-without-kind", "an edit does not say what it changes")
        edits = list(sample.edits)
        if self.kinds:
            edits = [edit for kind in self.kinds for edit in edits if edit.kind == kind]
        if len(edits) > self.most:
            raise BadSample(f"more-than-{self.most}-edits", f"{len(edits)} edits; raise `most`")
        return edits
