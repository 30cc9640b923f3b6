"""ODIR-5K's tables: one row for each patient, and one for each eye."""

import pickle

import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.errors import InputError

HEAD = "ID,Patient Age,Patient Sex,Left-Fundus,Right-Fundus,Left-Diagnostic Keywords,Right-Diagnostic Keywords"
PATIENTS = f"""{HEAD},N,D,G,C,A,H,M,O
0,69,Female,0_left.jpg,0_right.jpg,cataract,normal fundus,0,0,0,1,0,0,0,0
1,57,Male,1_left.jpg,1_right.jpg,normal fundus,normal fundus,1,0,0,0,0,0,0,0
2,42,Male,2_left.jpg,2_right.jpg,"laser spot,moderate retinopathy",,0,1,0,0,0,0,0,1
3,42,Male,3_left.jpg,3_right.jpg,,,0,yes,0,0,0,0,0,1
4,42,Male,../4_left.jpg,4_right.jpg,,,0,0,1,0,0,0,0,0
"""
EYES = f"""{HEAD},N,D,G,C,A,H,M,O,filepath,labels,target,filename
0,69,Female,0_left.jpg,0_right.jpg,cataract,normal fundus,0,0,0,1,0,0,0,0,in/0.jpg,['N'],[1],0_right.jpg
0,69,Female,0_left.jpg,0_right.jpg,cataract,normal fundus,0,0,0,1,0,0,0,0,in/1.jpg,['C'],"[0, 0, 0, 1]",0_left.jpg
1,69,Female,1_left.jpg,1_right.jpg,cataract,normal fundus,0,0,0,1,0,0,0,0,in/2.jpg,['X'],"[]",1_left.jpg
"""


@pytest.fixture
def table(tmp_path):
    def write(text, folder=""):
        (tmp_path / folder).mkdir(exist_ok=True)
        for patient in range(5):
            for side in ("left", "right"):
                Image.new("RGB", (8, 8)).save(tmp_path / folder / f"{patient}_{side}.jpg")
        (tmp_path / "full_df.csv").write_text(text, encoding="utf-8")
        return str(tmp_path / "full_df.csv")

    return write


def test_each_eye_of_a_patient_is_a_sample_with_its_keywords(table):
    source = open_source(table(PATIENTS, "ODIR-5K_Training_Dataset"))
    assert list(source.keys())[:3] == ["0_left.jpg", "0_right.jpg", "1_left.jpg"]
    assert [source[at].captions("keywords") for at in (0, 1, 4, 5)] == [
        ["cataract"],
        ["normal fundus"],
        ["laser spot,moderate retinopathy"],
        [],
    ]
    classes = source.schema()["labels.class"].classes
    named = [classes[value] for value in source.labels("class")]
    assert named == ["cataract"] * 2 + ["normal"] * 2 + ["diabetes|other"] * 2 + ["glaucoma"]
    assert source[0].labels["cataract"] == 1
    assert source[0].labels["myopia"] == 0
    assert list(source.damage.values()) == ["label", "columns"]
    assert source[6].images["main"].decode().size == (8, 8)
    assert pickle.loads(pickle.dumps(source))[4].labels == source[4].labels


def test_a_row_for_an_eye_has_the_findings_of_that_eye(table):
    source = open_source(table(EYES))
    assert list(source.keys()) == ["0_right.jpg", "0_left.jpg"]
    classes = source.schema()["labels.class"].classes
    assert [classes[value] for value in source.labels("class")] == ["normal", "cataract"]
    assert [source[at].captions("keywords") for at in (0, 1)] == [["normal fundus"], ["cataract"]]
    assert list(source.damage.values()) == ["label"]


def test_a_table_without_a_row_or_without_images_is_refused(table):
    path = table(PATIENTS)
    with pytest.raises(InputError, match="its first image, 0_left.jpg, is not in elsewhere"):
        open_source(f"{path}:images=elsewhere")
    with pytest.raises(InputError, match="none of its rows can be read"):
        open_source(table(f"{HEAD},N,D,G,C,A,H,M,O\n3,42,Male,a.jpg,b.jpg,,,0,yes,0,0,0,0,0,1\n"))
