"""ArtEmis: a file with its columns, paintings in WikiArt's folders, damage, and splits."""

import pickle

import pytest
from PIL import Image

from diptych.data.sources import formats, open_source
from diptych.errors import InputError
from diptych.spec import parse

HEAD = "art_style,painting,emotion,utterance,repetition"
ROWS = (
    "Post_Impressionism,vincent-van-gogh_portrait,something else,"
    '"She seems very happy, and i want to know ""what"" about",10',
    "Post_Impressionism,vincent-van-gogh_portrait,sadness,This woman has really knotty hands,10",
    "Expressionism,wassily-kandinsky_study,awe,The colors are vivid,7",
    "Post_Impressionism,vincent-van-gogh_portrait,sadness,Her eyes are tired,10",
)


def made(folder, rows=ROWS, head=HEAD, images="wikiart"):
    for name in (
        "Post_Impressionism/vincent-van-gogh_portrait",
        "Expressionism/wassily-kandinsky_study",
    ):
        path = folder / images / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (90, 20, 20)).save(path)
    file = folder / "artemis_dataset_release_v0.csv"
    file.write_text("\n".join([head, *rows]) + "\n", "utf-8")
    return file


def test_rows_of_a_painting_are_one_sample(tmp_path):
    source = open_source(str(made(tmp_path)))
    assert list(source.keys()) == [
        "Post_Impressionism/vincent-van-gogh_portrait",
        "Expressionism/wassily-kandinsky_study",
    ]
    one, other = source[0], source[1]
    assert one.captions("emotion") == ["something else", "sadness", "sadness"]
    assert one.captions("explanation")[0] == 'She seems very happy, and i want to know "what" about'
    assert one.images["main"].decode().size == (8, 6)
    assert source.schema()["labels.majority"].classes == ("awe", "sadness", "something else")
    assert (one.labels["majority"], other.labels["majority"]) == (1, 0)
    assert source.labels("majority").tolist() == [1, 0]
    again = pickle.loads(pickle.dumps(source))
    assert again[1].texts == other.texts


def test_without_a_majority_the_label_is_missing(tmp_path):
    source = open_source(str(made(tmp_path, ROWS[:2])))
    assert source[0].labels["majority"] == -1


def test_splits_and_another_folder(tmp_path):
    splits = ("train", "test", "val", "train")
    rows = [f"{row},{split}" for row, split in zip(ROWS, splits, strict=True)]
    file = made(tmp_path, rows, f"{HEAD},split", images="paintings")
    images = f":images={tmp_path / 'paintings'}"
    with pytest.raises(InputError, match="is not near it; name the folder with :images=FOLDER"):
        open_source(str(file))
    assert len(open_source(f"{file}{images}")) == 2
    train = open_source(f"{file}{images}:split=train")
    assert train[0].captions("emotion") == ["something else", "sadness"]
    assert len(open_source(f"{file}{images}:split=train+val")) == 2
    with pytest.raises(InputError, match="unknown split of .* 'tarin'"):
        open_source(f"{file}{images}:split=tarin")


def test_damaged_rows_are_counted(tmp_path):
    rows = [ROWS[2], "Expressionism,wassily-kandinsky_study,awe,,7", "..,secret,awe,look,1"]
    source = open_source(str(made(tmp_path, rows)))
    assert len(source) == 1
    assert sorted(source.damage.values()) == ["empty", "outside"]
    with pytest.raises(InputError, match="no row has a style"):
        open_source(str(made(tmp_path, rows[1:])))


def test_other_tables_are_no_artemis(tmp_path):
    file = made(tmp_path, ["a,b"], "painting,emotion")
    assert not formats()["artemis"].claims(parse(str(file)))
