"""The words of `kidneys`: attributes with the names of their values, and the sentences of reports.

Reserved sentences never occur in seen ones.
"""

from collections.abc import Mapping, Sequence

import numpy as np

SIDES = ("left", "right")
CENTRES = ("a", "b", "c", "d")
PHASES = ("plain", "arterial", "venous", "delayed")
"""The contrast phases."""

ATTRIBUTES: Mapping[str, Sequence[str]] = {
    "kind": ("no mass", "cyst", "solid mass"),
    "radius": ("small", "medium", "large"),
    "exophytic": ("inside the kidney", "partly outside", "mostly outside"),
    "nearness": ("far from the sinus", "near the sinus", "touching the sinus"),
    "anterior": ("anterior", "posterior", "lateral"),
    "location": ("lower pole", "middle", "upper pole"),
    "enhancement": ("none", "mild", "avid"),
    "margin": ("smooth", "irregular"),
    "calcification": ("absent", "present"),
    "necrosis": ("absent", "present"),
}
"""The attributes that reports tell, and their values. All but the first are of a mass."""

DIAGNOSES: Mapping[str, Sequence[str]] = {
    "malignant": ("benign", "malignant"),
    "aggressive": ("indolent", "aggressive"),
}
"""What pathology tells of a mass, and a report does not."""

OUTCOMES = ("recurrence", "disease_death", "death")
"""The events of survival times."""

WORDS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "seen": {
        "no mass": ("no focal lesion is seen", "the parenchyma is normal", "there is no mass"),
        "cyst": ("there is a cyst", "a fluid-filled lesion is seen", "a water-dense cyst is noted"),
        "solid mass": (
            "there is a solid mass",
            "a soft-tissue lesion is seen",
            "a tumour is noted",
        ),
        "small": ("it is small", "the diameter is below 4.0 cm", "little in size"),
        "medium": ("it is of medium size", "the diameter is 4.5 cm", "moderate in size"),
        "large": ("it is large", "the diameter exceeds 7.0 cm", "sizeable in extent"),
        "inside the kidney": ("it lies inside the kidney", "entirely endophytic", "no bulge"),
        "partly outside": ("it is partly outside", "half of it is exophytic", "the contour bulges"),
        "mostly outside": ("it is mostly outside", "largely exophytic", "it hangs on the surface"),
        "far from the sinus": ("far from the sinus", "the sinus fat is free", "well clear of it"),
        "near the sinus": (
            "near the sinus",
            "close to the collecting system",
            "little fat between",
        ),
        "touching the sinus": (
            "touching the sinus",
            "it abuts the collecting system",
            "no fat left",
        ),
        "anterior": ("it is anterior", "on the ventral side", "at the front"),
        "posterior": ("it is posterior", "on the dorsal side", "at the back"),
        "lateral": ("it is lateral", "on the outer side", "at the convexity"),
        "lower pole": ("in the lower pole", "located caudally", "at the bottom third"),
        "middle": ("in the middle", "at the level of the hilum", "in the interpolar third"),
        "upper pole": ("in the upper pole", "located cranially", "at the top third"),
        "enhancement none": ("without enhancement", "no uptake of contrast", "it does not enhance"),
        "enhancement mild": ("mild enhancement", "weak uptake of contrast", "it enhances slightly"),
        "enhancement avid": (
            "avid enhancement",
            "strong uptake of contrast",
            "it enhances brightly",
        ),
        "margin smooth": ("the margin is smooth", "well-defined edge", "round in outline"),
        "margin irregular": ("the margin is irregular", "ill-defined edge", "lobulated in outline"),
        "calcification absent": ("no calcification", "free of chalk", "no dense specks"),
        "calcification present": ("calcification is present", "chalky rim", "dense specks"),
        "necrosis absent": ("no necrosis", "homogeneous inside", "no dead core"),
        "necrosis present": ("necrosis is present", "inhomogeneous inside", "a dead core"),
    },
    "reserved": {
        "no mass": ("an unremarkable kidney",),
        "cyst": ("a cystic finding",),
        "solid mass": ("a solid neoplasm",),
        "small": ("of small diameter",),
        "medium": ("of medium diameter",),
        "large": ("of large diameter",),
        "inside the kidney": ("wholly inside the kidney, endophytic",),
        "partly outside": ("partly outside the contour, half exophytic",),
        "mostly outside": ("mostly outside on the surface, exophytic",),
        "far from the sinus": ("the sinus is far and free",),
        "near the sinus": ("the sinus is near and close",),
        "touching the sinus": ("the sinus is abutted, touching",),
        "anterior": ("seen at the anterior, ventral face",),
        "posterior": ("seen at the posterior, dorsal face",),
        "lateral": ("seen at the lateral, outer face",),
        "lower pole": ("within the lower, caudal third",),
        "middle": ("within the middle, hilum third",),
        "upper pole": ("within the upper, cranial third",),
        "enhancement none": ("contrast uptake: none, no enhancement",),
        "enhancement mild": ("contrast uptake: mild, weak enhancement",),
        "enhancement avid": ("contrast uptake: avid, strong enhancement",),
        "margin smooth": ("edge: smooth, well-defined",),
        "margin irregular": ("edge: irregular, ill-defined",),
        "calcification absent": ("chalk: absent, no calcification",),
        "calcification present": ("chalk: present, calcification",),
        "necrosis absent": ("core: no necrosis, homogeneous",),
        "necrosis present": ("core: necrosis, dead, inhomogeneous",),
    },
}
"""The sentences of each value, by the form of words."""

ASIDES = (
    "the renal vein is patent",
    "no stone is seen",
    "the ureter is not dilated",
    "the adrenal gland is normal",
    "no enlarged lymph node",
)
"""Sentences about other things, which no volume shows."""


def key_of(attribute: str, value: str) -> str:
    """The key of a value in WORDS: the value, with its attribute where the value alone says too
    little.

    >>> key_of("margin", "smooth"), key_of("location", "middle")
    ('margin smooth', 'middle')
    """
    own = attribute in ("enhancement", "margin", "calcification", "necrosis")
    return f"{attribute} {value}" if own else value


def sentence(attribute: str, value: int, wordings: str, rng: np.random.Generator) -> str:
    """A sentence that tells an attribute's value."""
    choices = WORDS[wordings][key_of(attribute, ATTRIBUTES[attribute][value])]
    return choices[int(rng.integers(len(choices)))]


def report(
    side: str, told: Mapping[str, int], wordings: str, asides: int, rng: np.random.Generator
) -> str:
    """The report of a kidney that tells the values `told`, and some asides, in random order.

    >>> report("left", {"kind": 0}, "reserved", 0, np.random.default_rng(0))
    'Findings: An unremarkable kidney.\\nImpression: Left kidney without a mass.'
    """
    said = [sentence(name, value, wordings, rng) for name, value in told.items()]
    said += [ASIDES[at] for at in rng.permutation(len(ASIDES))[:asides]]
    said = [said[at] for at in rng.permutation(len(said))]
    findings = " ".join(f"{each[0].upper()}{each[1:]}." for each in said)
    if not said:
        findings = f"No abnormalities in the {side} kidney."
    kind = (
        ("without a mass", "with a cyst", "with a solid mass")[told["kind"]]
        if "kind" in told
        else ""
    )
    return f"Findings: {findings}\nImpression: {side.capitalize()} kidney {kind or 'examined'}."
