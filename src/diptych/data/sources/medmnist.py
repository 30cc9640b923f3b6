"""MedMNIST's files (`pathmnist.npz`, `chestmnist_64.npz:split=test`): images and labels of the splits
train, val and test as arrays.

    train_images    (N, H, W) grey or (N, H, W, 3), uint8
    train_labels    (N, 1) the class, or (N, F) 0 or 1 for each of F findings

Classes have the names that the data set publishes, by the name of the file. The arrays of a split are
unpacked into memory once in each process, when the first image is read.
"""

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image

from diptych.data.compact import is_folder
from diptych.data.png import png_of
from diptych.data.sample import BadSample, Field, Sample, Schema
from diptych.data.sources import dsprites
from diptych.data.sources._files import array_header
from diptych.data.sources._findings import Findings
from diptych.errors import InputError, brief
from diptych.spec import Spec, configure

FORMAT = "medmnist"
CLASSES = {
    "pathmnist": ("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
                  "cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    "chestmnist": ("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia",
                   "pneumothorax", "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
    "dermamnist": ("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma",
                   "benign keratosis-like lesions", "dermatofibroma", "melanoma", "melanocytic nevi",
                   "vascular lesions"),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("0", "1", "2", "3", "4"),
    "breastmnist": ("malignant", "normal, benign"),
    "bloodmnist": ("basophil", "eosinophil", "erythroblast",
                   "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)", "lymphocyte", "monocyte",
                   "neutrophil", "platelet"),
    "tissuemnist": ("Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule", "Glomerular endothelial cells",
                    "Interstitial endothelial cells", "Leukocytes", "Podocytes", "Proximal Tubule Segments",
                    "Thick Ascending Limb"),
    "organamnist": ("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver",
                    "lung-left", "lung-right", "pancreas", "spleen"),
}  # fmt: skip
CLASSES |= {name: CLASSES["organamnist"] for name in ("organcmnist", "organsmnist")}
_NORMAL = "no finding"


@dataclass(frozen=True, kw_only=True)
class MedMNISTOptions:
    """Options of a file: its split."""

    split: Literal["train", "val", "test"] = "train"


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its suffix."""
    return spec.name.lower().endswith(".npz") and not is_folder(spec) and not dsprites.claims(spec)


def open(spec: Spec) -> "MedMNIST":
    """Open `pathmnist.npz[:split=train|val|test]`. Raises InputError for other contents."""
    options = configure(MedMNISTOptions, spec.options, f"source {spec.name!r}")
    return MedMNIST(spec.name, options.split)


class MedMNIST:
    """The images of a split in order, with the label `class`; a number is the key.

    Of several findings, each has a label of its own too (`Findings`). In a file of another name
    classes have no names.
    """

    def __init__(self, path: str, split: str):
        self.path = path
        self.split = split
        self.name = f"{path}:split={split}"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                labels = arrays[f"{split}_labels"]
            shape, kind = array_header(path, f"{split}_images.npy")
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; check the path") from None
        except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path}: no MedMNIST file of {split}_images and {split}_labels ({brief(error)}); fetch it again"
            ) from error
        if len(shape) not in (3, 4) or kind != np.uint8 or (len(shape) == 4 and shape[3] != 3):
            raise InputError(
                f"{path}: {split}_images are {kind} of shape {shape}, not bytes (N, H, W) or (N, H, W, 3); "
                "volumes are not read"
            )
        if labels.ndim != 2 or len(labels) != shape[0] or labels.dtype.kind not in "iu":
            raise InputError(
                f"{path}: {split}_labels have shape {labels.shape} for {shape[0]} images; fetch it again"
            )
        known = CLASSES.get(os.path.basename(path).partition(".")[0].partition("_")[0], ())  # noqa: PTH119
        self._classes = known
        self._findings: Findings | None = None
        self._label = labels[:, 0].astype(np.int64)
        if labels.shape[1] > 1:
            names = known or [f"finding {number}" for number in range(labels.shape[1])]
            if len(names) != labels.shape[1]:
                raise InputError(
                    f"{path}: {labels.shape[1]} findings, where {len(names)} are published; rename the file"
                )
            self._findings = Findings(names, labels, normal=_NORMAL)
        elif known and self._label.max(initial=0) >= len(known):
            raise InputError(
                f"{path}: class {self._label.max()}, where {len(known)} are published; rename the file"
            )

    def __len__(self) -> int:
        return len(self._label)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        found = self._findings
        labels = {"class": int(self._label[index])} if found is None else found.of(index)
        return Sample(
            key=str(index),
            source=self.name,
            images={"main": ArrayImage(self.path, f"{self.split}_images", index)},
            labels=labels,
        )

    def keys(self) -> Sequence[str]:
        """The numbers of the images."""
        return [str(index) for index in range(len(self))]

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,)."""
        return self._label if self._findings is None else self._findings.labels(name)

    def schema(self) -> Schema:
        """Images, their class, and the findings if there are several."""
        labels = {"labels.class": Field(kind="int", classes=self._classes)}
        own = labels if self._findings is None else self._findings.schema()
        return {"images.main": Field(kind="image"), **own}


@lru_cache(maxsize=4)
def _array(path: str, name: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except FileNotFoundError:
        raise BadSample("missing", path) from None
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise BadSample("unreadable", f"{path}: {brief(error)}") from error


@dataclass(frozen=True, slots=True)
class ArrayImage:
    """The image `index` of an array in an .npz file."""

    path: str
    name: str
    index: int

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The image as RGB; raises BadSample if the file cannot be read."""
        return Image.fromarray(_array(self.path, self.name)[self.index]).convert("RGB")

    def read(self) -> bytes:
        """The image as a PNG file."""
        return png_of(self.decode())
