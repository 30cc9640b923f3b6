"""The attributes of `docmnist`, and the sentences that name them."""

import numpy as np

DIGITS: tuple[str, ...] = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
)
COLOURS: tuple[str, ...] = ("red", "yellow", "green", "blue", "purple")
SHAPES: tuple[str, ...] = ("circle", "rectangle")
SIZES: tuple[str, ...] = ("small", "medium", "large")
ATTRIBUTES = (*DIGITS, *COLOURS, *SHAPES, *SIZES)

SENTENCES = {
    DIGITS: (
        "the page shows the digit {}",
        "somebody wrote a {}",
        "the number {} can be read",
        "a handwritten {} is on the page",
    ),
    COLOURS: ("some ink is {}", "a digit in {}", "a {} number", "part of the page is {}"),
    SHAPES: ("a white {} is drawn", "there is a {} beside a digit", "an outline is a {}"),
    SIZES: ("a shape is {}", "there is a {} outline", "a {} figure stands out"),
}
"""The sentences of each kind of attribute; each names its own attribute and no other."""


def sentence(attribute: str, rng: np.random.Generator) -> str:
    """A sentence that names an attribute, and no other one.

    >>> sentence("blue", np.random.default_rng(0))
    'part of the page is blue'
    """
    [forms] = [forms for names, forms in SENTENCES.items() if attribute in names]
    return forms[rng.integers(len(forms))].format(attribute)
