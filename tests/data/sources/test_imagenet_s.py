"""ImageNet-S: masks whose numbers are colours, on a fixture of its true form."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.errors import InputError

NUMBERS = np.array([[0, 1, 2], [3, 1000, 2]])
MAPPING = """n01440764 tench, Tinca tinca
n02012849 crane
n03126707 crane, derrick
n01443537 goldfish, Carassius auratus
"""


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "ImageNetS50"
    for at, folder in enumerate(("n01443537", "n02012849", "n03126707")):
        for kind in ("validation", "validation-segmentation", "test"):
            (root / kind / folder).mkdir(parents=True)
        for number in (1, 2):
            name = f"ILSVRC2012_val_0000{at}{number}"
            Image.new("RGB", (3, 2)).save(root / "validation" / folder / f"{name}.JPEG", "JPEG")
            colours = np.stack([NUMBERS % 256, NUMBERS // 256, 0 * NUMBERS], -1).astype(np.uint8)
            mask = root / "validation-segmentation" / folder / f"{name}.png"
            Image.fromarray(colours).save(mask)
    (tmp_path / "LOC_synset_mapping.txt").write_text(MAPPING)
    return root


def test_colours_are_classes_in_the_order_of_the_folders(root):
    source = open_source(f"{root}:split=validation")
    assert len(source) == 6
    assert source.keys()[1] == "n01443537/ILSVRC2012_val_000002"
    field = source.schema()["masks.class"]
    assert field.classes == ("background", "goldfish", "crane", "crane, derrick")
    sample = pickle.loads(pickle.dumps(source))[4]
    assert sample.images["main"].decode().size == (3, 2)
    mask = sample.masks["class"]
    assert np.asarray(mask.decode()).tolist() == [[0, 1, 2], [3, 255, 2]]
    again = np.asarray(Image.open(io.BytesIO(mask.read())))
    assert again.tolist() == np.asarray(mask.decode()).tolist()


def test_what_is_not_there_is_named(root, tmp_path):
    (root / "validation" / "n01443537" / "ILSVRC2012_val_000001.JPEG").unlink()
    source = open_source(f"{root}:split=validation")
    assert source.damage == {"n01443537/ILSVRC2012_val_000001": "no-image"}
    with pytest.raises(InputError, match="holds the splits validation; choose one"):
        open_source(str(root))
    with pytest.raises(InputError, match="unknown split of .*'test'"):
        open_source(f"{root}:split=test")
    mapping = tmp_path / "LOC_synset_mapping.txt"
    mapping.rename(tmp_path / "names.txt")
    with pytest.raises(InputError, match="are numbers of WordNet; copy LOC_synset_mapping.txt"):
        open_source(f"{root}:split=validation")
    assert len(open_source(f"{root}:split=validation:names={tmp_path / 'names.txt'}")) == 5
    with pytest.raises(InputError, match=r"no\.txt: no such file; name ImageNet's"):
        open_source(f"{root}:split=validation:names={tmp_path / 'no.txt'}")
    (tmp_path / "names.txt").write_text("n01443537 goldfish\n")
    with pytest.raises(InputError, match="has no line such as 'n02012849 goldfish'"):
        open_source(f"{root}:split=validation:names={tmp_path / 'names.txt'}")


def test_more_classes_than_a_mask_holds_are_refused(root):
    for number in range(300):
        (root / "validation-segmentation" / f"n{number:08d}").mkdir()
    with pytest.raises(InputError, match="has 303 classes, and a class mask holds 1 to 254"):
        open_source(f"{root}:split=validation")
