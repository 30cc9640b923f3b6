"""Lists of captions in their published forms, with real damage."""

import json

import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.errors import InputError

FILES = [f"flickr30k-images/{number}.jpg" for number in (1007129816, 1009434119, 101362133)]
TESTED = [
    {"image": file, "caption": [f"A dog {at}-{n} ." for n in range(5)]}
    for at, file in enumerate(FILES)
]
TRAINED = [
    {"image": row["image"], "caption": text, "image_id": f"{row['image'][17:-4]}"}
    for row in TESTED
    for text in row["caption"]
]


def write(folder, name, rows):
    (folder / "flickr30k-images").mkdir(exist_ok=True)
    for file in FILES:
        Image.new("RGB", (4, 3)).save(folder / file)
    (folder / name).write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return str(folder / name)


@pytest.mark.parametrize(
    ("name", "rows"), [("flickr30k_test.json", TESTED), ("flickr30k_train.json", TRAINED)]
)
def test_files_for_training_and_testing_give_an_image_with_its_captions(tmp_path, name, rows):
    source = open_source(write(tmp_path, name, rows))
    assert len(source) == 3
    assert list(source.keys()) == FILES
    assert source[1].captions() == TESTED[1]["caption"]
    assert source[-1].images["main"].decode().size == (4, 3)
    assert set(source.schema()) == {"images.main", "texts.caption"}
    with pytest.raises(IndexError):
        source[3]


def test_images_may_lie_elsewhere(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere", "x.json", TESTED)
    path = tmp_path / "coco_test.json"
    path.write_text(json.dumps(TESTED))
    with pytest.raises(InputError, match="its first image, .*, is not near it; .*:images=FOLDER"):
        open_source(str(path))
    named = open_source(f"{path}:images={tmp_path / 'elsewhere'}")
    assert named[0].images["main"].decode()


def test_rows_that_cannot_be_read_are_counted(tmp_path):
    wrong = [
        {"image": "../x.jpg", "caption": "out"},
        {"image": FILES[0]},
        "a row",
        {"caption": ["x"]},
    ]
    source = open_source(write(tmp_path, "flickr30k_test.json", [TESTED[0], *wrong, TESTED[1]]))
    assert len(source) == 2
    assert len(source.damage) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"image": "a.jpg", "caption": "x"', "not JSON"),
        ('[{"image": "/a.jpg", "caption": "x"}]', "no row has an image and a caption"),
    ],
)
def test_other_contents_are_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        open_source(write(tmp_path, "flickr30k_test.json", text))
