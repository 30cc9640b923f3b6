"""Kidneys by patient: both kidneys of a patient are one sample, in one contrast phase.

Dimensions: B patients, R kidneys of a patient, K variants of a text, E embedding, D x H x W voxels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from diptych.data.sample import BadSample, Sample, Source, labels_of
from diptych.data.sources import Concat
from diptych.data.volumes import VolumePreprocess
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.methods.domain.renalclip.volumes import VolumeAugment, drawn_phase, prepared

KIDNEYS = 2
"""The kidneys of a patient."""


class Patients(Wrapped):
    """A source of kidneys with one sample for each value of a label: the first kidney that has it,
    with all of them as `edits`, in order. Equal values of several joined sources are different
    patients.

    A value with more than two kidneys, such as those of several scans, gives several samples of two.
    Kidneys whose label is missing (-1) are left out. Raises InputError if no kidney has the label.
    """

    def __init__(self, source: Source, label: str):
        values = labels_of(source, label)
        order = np.lexsort((values, _parts(source)))
        order = order[values[order] >= 0]
        if not len(order):
            raise InputError(
                f"no sample of {source.name} has the label {label!r}, by which both kidneys of a patient are found; "
                "give another with --method.patient"
            )
        parts = _parts(source)[order]
        new = np.diff(values[order], prepend=-1) != 0
        starts = np.flatnonzero(new | (np.diff(parts, prepend=-1) != 0))
        # how far behind the first of its patient a kidney is
        within = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
        self.groups = np.split(order, np.flatnonzero(within % KIDNEYS == 0)[1:])
        super().__init__(source, np.array([group[0] for group in self.groups]))

    def __getitem__(self, index: int) -> Sample:
        kidneys = [self.source[int(row)] for row in self.groups[index]]
        return replace(kidneys[0], edits=kidneys)


def _parts(source: Source) -> np.ndarray:
    """The number (N,) of the joined source that each sample is of."""
    while isinstance(source, Wrapped) and source.rows is None:
        source = source.source
    parts = source.sources if isinstance(source, Concat) else [source]
    return np.repeat(np.arange(len(parts)), [len(part) for part in parts])


@dataclass(frozen=True, kw_only=True)
class PatientView:
    """The volumes of a patient's kidneys images.main (B, R, 1, D, H, W), all of one phase, with a
    text vector for each, fields.text (B, R, E), the number of their text, fields.same (B, R), and
    fields.there (B, R), which of the R = 2 rows are real.

    In training the phase is drawn among those of `phases` that all the patient's kidneys have, and
    so is one of each text's K variants; else they are the volume `main` and variant 0. A patient
    whose kidneys share none of the phases has the volumes `main`. Raises BadSample if a volume
    cannot be read.
    """

    preprocess: VolumePreprocess
    label: str
    phases: Sequence[str] = ()
    augment: VolumeAugment | None = None
    variants: str = "variants"
    same: str = "same_text"

    @property
    def reads(self) -> tuple[str, ...]:
        return (
            "images.main",
            f"labels.{self.label}",
            f"arrays.{self.variants}",
            f"labels.{self.same}",
        )

    @property
    def gives(self) -> tuple[str, ...]:
        return "images.main", "fields.text", "fields.same", "fields.there"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        kidneys = sample.edits
        training = progress is not None
        phase = drawn_phase(kidneys, self.phases if training else (), rng) or "main"
        volumes = torch.zeros(KIDNEYS, *self.preprocess.shape)
        texts = torch.zeros(KIDNEYS, kidneys[0].arrays[self.variants].shape[-1])
        same = torch.full((KIDNEYS,), -1)
        for row, kidney in enumerate(kidneys):
            if phase not in kidney.images:
                raise BadSample("no-image", f"{kidney.key} has no volume {phase!r}")
            augment = self.augment if training else None
            volumes[row] = prepared(kidney, phase, self.preprocess, augment, rng)
            own = kidney.arrays[self.variants]
            texts[row] = torch.from_numpy(own[int(rng.integers(len(own))) if training else 0])
            same[row] = int(kidney.labels[self.same])
        return {
            "images.main": volumes,
            "fields.text": texts,
            "fields.same": same,
            "fields.there": torch.arange(KIDNEYS) < len(kidneys),
        }
