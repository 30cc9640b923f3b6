"""Captions for samples that have a class and no caption.

    chest/:captions=bank.json                the file {"pneumonia": ["an x-ray of an inflamed lung", …], …}
    chest.csv:captions=bank.json:of=finding  by another label than `class` or the only one with class names
    chest/:captions=a chest x-ray with {}    templates, as `data.templates` reads them

A sample keeps the captions of its own. Any other gets all of its class's, of which
`data.views.TextView` draws one anew each time. A class `A|B` of several findings has those of each.
Samples with neither class nor caption are left out, if no sample of the source has captions.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diptych.data.descriptions import bank
from diptych.data.sample import Field, Sample, Schema, Source, Text, labels_of
from diptych.data.sources.subset import class_label
from diptych.data.wrap import Wrapped
from diptych.errors import InputError


class Captioned(Wrapped):
    """A source whose samples without a caption have those of their class.

    `texts` is the spec of a bank (`data.descriptions.bank`). Raises InputError for a label without
    class names, and a class that the bank has no text for.

    >>> from diptych.data.sources import open_source
    >>> source = Captioned(open_source("glyphs:split=test"), "a {} glyph | one {} drawing", "group")
    >>> source[0].captions()  # it has one of its own
    ['grinning face with smiling eyes']
    """

    def __init__(self, source: Source, texts: str, label: str | None = None):
        self.label = class_label(source, label)
        names = source.schema()[f"labels.{self.label}"].classes
        if not names:
            raise InputError(
                f"the classes of label {self.label!r} of {source.name} have no names to find captions by; give names"
            )
        single = findings(names)
        self.bank = dict(zip(single, bank(texts, single), strict=True))
        self._texts = [self._of(name) for name in names]
        self._own = "texts.caption" in source.schema()
        values = labels_of(source, self.label)
        self._lacking = bool((values < 0).any())
        rows = None if self._own or not self._lacking else np.flatnonzero(values >= 0)
        super().__init__(source, rows, f"{source.name}:captions={texts}")

    def _of(self, name: str) -> tuple[Text, ...]:
        texts = (text for part in name.split("|") for text in self.bank[part])
        return tuple(Text(text=text) for text in dict.fromkeys(texts))

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        value = int(sample.labels.get(self.label, -1))
        if value < 0 or any(text.strip() for text in sample.captions()):
            return sample
        return replace(sample, texts=[*sample.texts, *self._texts[value]])

    def schema(self) -> Schema:
        """The fields of the source, and captions."""
        return {
            **super().schema(),
            "texts.caption": Field(kind="text", optional=self._own and self._lacking),
        }


def findings(names: Sequence[str]) -> tuple[str, ...]:
    """The different findings of classes, in order of appearance; a class of several is written `A|B`.

    >>> findings(["Effusion", "Edema|Effusion"])
    ('Effusion', 'Edema')
    """
    return tuple(dict.fromkeys(part for name in names for part in name.split("|")))
