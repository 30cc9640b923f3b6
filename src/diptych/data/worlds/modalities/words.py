"""The words of `modalities`: names of images and findings, and the sentences that join them.

Reserved sentences never occur in seen ones; names do in both, so that a reserved sentence says known
things in an unknown way.
"""

import numpy as np

MODALITIES = {
    "x-ray": ("chest x-ray", "chest radiograph", "chest film", "plain film of the thorax"),
    "ct": ("abdominal ct", "computed tomography slice", "ct scan", "axial tomogram"),
    "mri": ("brain mri", "magnetic resonance image", "mr scan", "t2-weighted slice"),
    "ultrasound": ("ultrasound", "sonogram", "echo image", "b-mode scan"),
    "histology": ("histology slide", "stained section", "micrograph", "biopsy slide"),
    "fundus": ("fundus photograph", "retinal image", "eye background photo", "retinograph"),
}
NORMAL = ("normal findings", "no abnormality", "healthy appearance", "unremarkable anatomy")
FINDINGS = {
    "x-ray": {
        "lung nodule": ("lung nodule", "round opacity", "coin lesion", "solitary pulmonary mass"),
        "pneumonia": ("pneumonia", "consolidation", "inflamed lung", "airspace disease"),
        "effusion": ("effusion", "fluid level", "pleural fluid", "blunted costal angle"),
    },
    "ct": {
        "liver cyst": ("liver cyst", "hypodense spot", "hepatic cavity", "water-filled sac"),
        "bleeding": ("bleeding", "haematoma", "extravasated blood", "dense collection"),
        "calcifications": ("calcifications", "chalky deposits", "mineral specks", "bright grains"),
    },
    "mri": {
        "brain tumour": ("brain tumour", "enhancing mass", "neoplasm", "glioma"),
        "infarct": ("infarct", "stroke", "ischaemic area", "dead tissue"),
        "white matter lesions": (
            "white matter lesions",
            "plaques",
            "hyperintense foci",
            "demyelination",
        ),
    },
    "ultrasound": {
        "simple cyst": ("simple cyst", "anechoic lesion", "echo-free sac", "clear bubble"),
        "gallstone": ("gallstone", "echogenic stone", "biliary calculus", "hard concretion"),
        "ascites": ("ascites", "free fluid", "dropsy", "peritoneal liquid"),
    },
    "histology": {
        "tumour nest": ("tumour nest", "malignant cluster", "carcinoma", "crowded nuclei"),
        "necrosis": ("necrosis", "cell death", "ghost cells", "pale debris"),
        "fat cells": ("fat cells", "adipocytes", "empty vacuoles", "lipid droplets"),
    },
    "fundus": {
        "retinal haemorrhage": ("retinal haemorrhage", "blot", "ruptured vessel", "dark leak"),
        "scar": ("scar", "atrophy", "bare sclera", "chorioretinal lesion"),
        "drusen": ("drusen", "yellow deposits", "macular granules", "ageing spots"),
    },
}
CLASSES = tuple(
    (modality, finding) for modality in MODALITIES for finding in ("normal", *FINDINGS[modality])
)
"""The modality and the finding of each class, in order."""
SENTENCES = {
    "seen": (
        "{m} showing {f}",
        "a {m} with {f}",
        "{f} on {m}",
        "{f} is visible in this {m}",
        "this {m} reveals {f}",
        "{m}: {f}",
        "evidence of {f} in a {m}",
        "the {m} of a patient with {f}",
        "{f}, {m}",
        "image of {f} acquired as {m}",
        "a case of {f} as seen on {m}",
        "{m} demonstrating {f}",
    ),
    "reserved": (
        "on our {m} we note {f}",
        "{f} was diagnosed by means of the {m}",
        "typical look of {f}; {m}",
        "example for {f}, taken from one {m}",
        "my reading: {f} ({m})",
        "{m} which suggests {f}",
    ),
}
SIZES = ("small", "large")
SIDES = ("left", "right")


def class_name(modality: str, finding: str) -> str:
    """The name of a class.

    >>> class_name("x-ray", "normal"), class_name("ct", "bleeding")
    ('normal findings on chest x-ray', 'bleeding on abdominal ct')
    """
    return f"{named(modality, finding)[0]} on {MODALITIES[modality][0]}"


def named(modality: str, finding: str) -> tuple[str, ...]:
    """The names of a finding."""
    return NORMAL if finding == "normal" else FINDINGS[modality][finding]


def sentence(
    modality: str, finding: str, wordings: str, rng: np.random.Generator, before: str = ""
) -> str:
    """One sentence about a finding, of the seen or the reserved ones; `before` is put before the
    finding's name."""
    form = str(rng.choice(SENTENCES[wordings]))
    name = str(rng.choice(named(modality, finding)))
    image = str(rng.choice(MODALITIES[modality]))
    return form.format(m=image, f=f"{before} {name}".strip())


def sentences(
    modality: str, finding: str, wordings: str, count: int, rng: np.random.Generator
) -> list[str]:
    """`count` different sentences about a finding."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[sentence(modality, finding, wordings, rng)] = None
    return list(found)
