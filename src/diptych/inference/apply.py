"""A source whose images and captions are changed by a model that has `apply`."""

from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from diptych.data.images import BytesImage, Preprocess
from diptych.data.png import png_of
from diptych.data.sample import Sample, Schema, Source
from diptych.data.wrap import Wrapped
from diptych.evaluation.embed import main_image
from diptych.methods.abilities import Applies


class Applied(Wrapped):
    """The samples of a source with their image `main` as `preprocess` gives it and the model changes
    it, and with changed texts of the role `role`.

    Other texts and the labels stay; what lies on the image (boxes, masks, arrays, edits) is left
    out.
    """

    def __init__(
        self, source: Source, model: Applies, preprocess: Preprocess, role: str, exact: bool = False
    ):
        super().__init__(source)
        self.model = model
        self.preprocess = preprocess
        self.role = role
        self.exact = exact

    def schema(self) -> Schema:
        return {
            name: field
            for name, field in super().schema().items()
            if name == "images.main" or name.startswith(("texts.", "labels."))
        }

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        [image] = main_image(sample)
        pixels = self.preprocess.read(image, exact=self.exact)[None]
        changed, texts = self.model.apply(pixels, sample.captions(self.role))
        left = iter(texts)
        return replace(
            sample,
            images={"main": BytesImage(png_of(_image(changed[0])))},
            texts=[
                replace(text, text=next(left)) if self.role in (text.role, "*") else text
                for text in sample.texts
            ],
            boxes=(),
            masks={},
            arrays={},
            edits=(),
        )


def _image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.to(torch.uint8).permute(1, 2, 0).cpu().numpy())
