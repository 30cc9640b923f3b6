"""Towers that other libraries have too, at the sizes of given ones, for runs that will be
exported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diptych.spec import Spec, parse

_SIZES = ("width", "depth", "heads", "mlp_ratio", "dropout")
_SMALL = {"patch": 8, "width": 128, "depth": 4, "heads": 4}
"""A vision transformer in place of a small convolutional tower."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """The options that make our towers those of another library, and the heads of both sides."""

    image: Mapping[str, Any]
    text: Mapping[str, Any]
    projections: Mapping[str, str] = field(default_factory=dict)

    def image_tower(self, spec: str) -> str:
        """The spec of an image tower for the images of another one, of its size if that is a
        `vit`."""
        given = parse(spec)
        sizes = {name: given.options[name] for name in (*_SIZES, "patch") if name in given.options}
        side = {name: given.options[name] for name in ("image_size",) if name in given.options}
        kept = sizes if given.name == "vit" else _SMALL
        return str(Spec("vit", {**side, **kept, **self.image}))

    def text_tower(self, spec: str) -> str:
        """The spec of a text tower of the size of another one."""
        given = parse(spec)
        kept = {name: given.options[name] for name in _SIZES if name in given.options}
        return str(Spec("text", {**kept, **self.text}))

    def tokenizer(self, spec: str) -> str:
        """The spec of a tokenizer that pads as the text tower reads it."""
        padded = {"padding": "max"} if self.text.get("pooling") == "last" else {}
        given = parse(spec)
        return str(Spec(given.name, {**given.options, **padded}))


CLIP = Form(image={"pre_norm": True}, text={})
SIGLIP = Form(
    image={"cls": 0, "pooling": "map"},
    text={"causal": False, "pooling": "last"},
    projections={"image_projection": "none", "text_projection": "affine"},
)


def form_for(target: str, published: str) -> Form | None:
    """The form of a run that is exported to `target`, None where any tower is exported.

    `published` is the spec of the image tower that the method was published with: where that pools
    by attention, the method is of SigLIP's kind.

    >>> form_for("hf", "vit:pooling=map").text["pooling"]
    'last'
    """
    if target == "onnx":
        return None
    sigmoid = parse(published).options.get("pooling") == "map"
    return SIGLIP if sigmoid and target != "openclip" else CLIP
