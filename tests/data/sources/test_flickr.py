"""The text files of Flickr8k and 30k, on fixtures of their true forms."""

from collections import Counter

import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.errors import InputError

TOKEN = (
    "1000268201_693b08cb0e.jpg#0\tA child in a pink dress is climbing up a set of stairs .\n"
    '1000268201_693b08cb0e.jpg#1\tA girl going into a "wooden building .\n'
    "1001773457_577c3a7d70.jpg#0\tA black dog and a spotted dog are fighting\n"
)
KAGGLE = (
    "image,caption\n"
    "1000268201_693b08cb0e.jpg,A child in a pink dress is climbing up a set of stairs .\n"
    '1000268201_693b08cb0e.jpg,"A girl going into a ""wooden building ."\n'
    "1001773457_577c3a7d70.jpg,A black dog and a spotted dog are fighting\n"
)
RESULTS = (
    "image_name| comment_number| comment\n"
    "1000268201_693b08cb0e.jpg| 0| A child in a pink dress is climbing up a set of stairs .\n"
    '1000268201_693b08cb0e.jpg| 1| A girl going into a "wooden building .\n'
    "2199200615.jpg| 4   A dog runs across the grass .\n"  # the published file has this very flaw
    "1001773457_577c3a7d70.jpg| 0| A black dog and a spotted dog are fighting\n"
)


@pytest.mark.parametrize(
    ("name", "text", "beside"),
    [
        ("Flickr8k.token.txt", TOKEN, "Flicker8k_Dataset"),
        ("results_20130124.token", TOKEN, "flickr30k-images"),
        ("captions.txt", KAGGLE, "Images"),
        ("results.csv", RESULTS, "flickr30k_images/flickr30k_images"),
        ("captions.txt", KAGGLE, "elsewhere"),
    ],
)
def test_each_form_gives_all_captions_of_a_image(tmp_path, name, text, beside):
    (tmp_path / name).write_text(text)
    (tmp_path / beside).mkdir(parents=True)
    for stem in ("1000268201_693b08cb0e", "1001773457_577c3a7d70"):
        Image.new("RGB", (4, 4)).save(tmp_path / beside / f"{stem}.jpg")
    source = open_source(
        str(tmp_path / name) + (f":images={tmp_path / beside}" if beside == "elsewhere" else "")
    )
    assert list(source.keys()) == ["1000268201_693b08cb0e.jpg", "1001773457_577c3a7d70.jpg"]
    assert source[0].captions()[0] == "A child in a pink dress is climbing up a set of stairs ."
    assert source[0].captions()[1] == 'A girl going into a "wooden building .'
    assert source[1].captions() == ["A black dog and a spotted dog are fighting"]
    assert source[1].images["main"].decode().size == (4, 4)
    assert Counter(source.damage.values()) == ({"columns": 1} if name == "results.csv" else {})
    assert {key for key in source.schema() if key.startswith(("images", "texts.caption"))} == {
        "images.main",
        "texts.caption",
    }


def test_without_images_the_option_is_named(tmp_path):
    (tmp_path / "results_20130124.token").write_text(TOKEN)
    with pytest.raises(InputError, match=":images=FOLDER"):
        open_source(str(tmp_path / "results_20130124.token"))
