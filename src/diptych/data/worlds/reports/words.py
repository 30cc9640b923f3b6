"""The words of `reports`: names of findings, places and sizes, and the sentences that join them.

The two sections of a report share no name, so that only reports with both say which names mean the
same.
"""

import numpy as np

SECTIONS = ("findings", "impression")
KINDS = ("nodule", "pneumonia", "effusion", "pneumothorax", "calcification", "catheter")
NAMES = {
    "findings": {
        "nodule": ("rounded density", "nodular shadow", "circumscribed focus", "coin shaped spot", "discrete ball",
                   "spherical structure"),
        "pneumonia": ("patchy airspace disease", "hazy area", "ill defined opacity", "alveolar infiltrate",
                      "fluffy shadowing", "confluent opacification"),
        "effusion": ("blunted angle", "meniscus", "layering fluid", "obscured sulcus", "basal veil", "fluid level"),
        "pneumothorax": ("lack of markings", "visible pleura", "lucent region", "avascular space", "dark rim",
                         "black crescent"),
        "calcification": ("bright specks", "scattered flecks", "punctate grains", "chalky particles", "clustered dots",
                          "white stippling"),
        "catheter": ("linear radiopacity", "tubular object", "slender strip", "metallic wire", "vertical cord",
                     "straight stripe"),
    },
    "impression": {
        "nodule": ("nodule", "granuloma", "tumour", "mass", "neoplasm", "metastasis"),
        "pneumonia": ("pneumonia", "consolidation", "infection", "bronchitis", "pneumonitis", "inflammation"),
        "effusion": ("effusion", "hydrothorax", "empyema", "exudate", "haemothorax", "pleurisy"),
        "pneumothorax": ("pneumothorax", "air leak", "collapse", "barotrauma", "trapped air", "rupture"),
        "calcification": ("calcification", "tuberculosis", "silicosis", "histoplasmosis", "mineralisation",
                          "asbestosis"),
        "catheter": ("catheter", "drain", "pacemaker", "cannula", "port", "stent"),
    },
}  # fmt: skip
LEVELS = {
    "findings": (("upper zone", "superior field", "top third"), ("lower zone", "inferior field", "bottom third")),
    "impression": (("apex", "upper lobe", "summit"), ("base", "lower lobe", "floor")),
}  # fmt: skip
SIZES = {
    "findings": (("small", "tiny", "subtle"), ("large", "extensive", "marked")),
    "impression": (("mild", "minimal", "slight"), ("severe", "massive", "advanced")),
}
SIDES = ("right", "left")
PRESENT = {
    "findings": (
        "there is {size} {name} in the {side} {level}",
        "{size} {name} is seen in the {side} {level}",
        "the {side} {level} shows {size} {name}",
        "{size} {name} projects over the {side} {level}",
    ),
    "impression": (
        "{size} {name} of the {side} {level}",
        "{side} {level} with {size} {name}",
        "findings suggest {size} {name} at the {side} {level}",
        "probable {size} {name}, {side} {level}",
    ),
}
ABSENT = {
    "findings": (
        "there is no {name}",
        "no {name} is identified",
        "the lungs are free of {name}",
        "{name} is not seen",
    ),
    "impression": (
        "no evidence of {name}",
        "{name} is excluded",
        "without sign of {name}",
        "negative for {name}",
    ),
}
NORMAL = {
    "findings": ("the lungs are clear", "normal heart and lungs", "unremarkable chest"),
    "impression": ("no acute disease", "normal study", "healthy chest"),
}
CLASSES = ("entailment", "neutral", "contradiction")


def pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    """One of some words."""
    return options[int(rng.integers(len(options)))]


def present(
    section: str, kind: str, left: bool, lower: bool, large: bool, rng: np.random.Generator
) -> str:
    """A sentence of a section that a finding is there.

    >>> present("impression", "nodule", True, False, False, np.random.default_rng(0))
    'probable minimal mass, left apex'
    """
    form = pick(PRESENT[section], rng)
    return form.format(
        size=pick(SIZES[section][large], rng),
        name=pick(NAMES[section][kind], rng),
        side=SIDES[left],
        level=pick(LEVELS[section][lower], rng),
    )


def absent(section: str, kind: str, rng: np.random.Generator) -> str:
    """A sentence of a section that a finding is not there."""
    return pick(ABSENT[section], rng).format(name=pick(NAMES[section][kind], rng))


def written(sentences: list[str]) -> str:
    """Sentences as a text.

    >>> written(["no nodule", "normal study"])
    'No nodule. Normal study.'
    """
    return " ".join(f"{each[0].upper()}{each[1:]}." for each in sentences)
