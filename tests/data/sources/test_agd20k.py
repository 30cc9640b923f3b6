"""AGD20K: folders of verbs and things, maps of the test, and what is missing."""

import numpy as np
import pytest
from PIL import Image

from diptych.data.sample import BadSample
from diptych.data.sources import open_source
from diptych.errors import InputError


@pytest.fixture
def seen(tmp_path):
    root = tmp_path / "Seen"
    for part, kind in (
        ("trainset/exocentric", "jpg"),
        ("trainset/egocentric", "jpg"),
        ("testset/egocentric", "jpg"),
        ("testset/GT", "png"),
    ):
        for verb, thing in (("cut_with", "knife"), ("hold", "knife"), ("hold", "wine_glass")):
            folder = root / part / verb / thing
            folder.mkdir(parents=True)
            for number in range(2):
                pixels = np.zeros((8, 10, 3), np.uint8)
                pixels[2:4, number : number + 3] = 250
                Image.fromarray(pixels).save(folder / f"{thing}_{number}.{kind}")
    return root


def test_photographs_in_use_and_alone(seen):
    for spec in (f"{seen}", f"{seen}:view=egocentric"):
        source = open_source(spec)
        assert len(source) == 6
        assert source.schema()["labels.verb"].classes == ("cut with", "hold")
        assert source.schema()["labels.object"].classes == ("knife", "wine glass")
        assert "masks.heat" not in source.schema()
        sample = source[5]
        assert sample.key == source.keys()[5] == "hold/wine_glass/wine_glass_1.jpg"
        assert sample.captions("verb") == ["hold"]
        assert sample.labels == {"verb": 1, "object": 1}
        assert sample.images["main"].decode().size == (10, 8)
    assert source.labels("verb").tolist() == [0, 0, 1, 1, 1, 1]
    assert source.labels("object").tolist() == [0, 0, 0, 0, 1, 1]


def test_the_test_has_maps(seen):
    source = open_source(f"{seen}:split=test")
    heat = np.asarray(source[1].masks["heat"].decode().convert("L"))
    assert heat.max() == heat[2, 1] == 250
    (seen / "testset/GT/cut_with/knife/knife_1.png").unlink()
    with pytest.raises(BadSample, match="missing"):
        source[1]


def test_parts_that_are_not_there_are_refused(seen, tmp_path):
    (seen / "testset/egocentric").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="no folder testset/egocentric; fetch it"):
        open_source(f"{seen}:split=test")
    with pytest.raises(InputError, match="did you mean 'test'"):
        open_source(f"{seen}:split=tst")
    for path in (seen / "trainset/exocentric").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(InputError, match="no images in folders VERB/THING"):
        open_source(str(seen))
