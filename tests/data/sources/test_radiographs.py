"""CheXpert's and NIH's tables, in their published form."""

import pytest
from PIL import Image

from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.errors import InputError

CHEXPERT = """Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Edema,Support Devices
CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,1.0
CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg,Female,87,Frontal,AP,,1.0,-1.0,
CheXpert-v1.0-small/train/patient00002/study1/view2_lateral.jpg,Female,87,Lateral,,,0.0,-1.0,
CheXpert-v1.0-small/train/patient00003/study1/view1_frontal.jpg,Male,41,Frontal,AP,,maybe,,
"""
COLUMNS = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
NIH = f"""{COLUMNS}
00000001_000.png,Cardiomegaly,0,1,58,M,PA,2682,2749,0.143,0.143,
00000001_001.png,Cardiomegaly|Emphysema,1,1,58,M,PA,2894,2729,0.143,0.143,
00000002_000.png,No Finding,0,2,81,M,PA,2500,2048,0.171,0.171,
"""


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), 90).save(path)


@pytest.fixture
def chexpert(tmp_path):
    root = tmp_path / "CheXpert-v1.0-small"
    for line in CHEXPERT.splitlines()[1:]:
        draw(tmp_path / line.partition(",")[0])
    (root / "train.csv").write_text(CHEXPERT)
    return root / "train.csv"


@pytest.fixture
def nih(tmp_path):
    for number, line in enumerate(NIH.splitlines()[1:], 1):
        draw(tmp_path / f"images_{number:03d}" / "images" / line.partition(",")[0])
    (tmp_path / "Data_Entry_2017.csv").write_text(NIH)
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
    (tmp_path / "test_list.txt").write_text("00000002_000.png\n")
    return tmp_path / "Data_Entry_2017.csv"


def test_paths_that_leave_the_folder_are_counted_and_not_read(chexpert):
    line = "../../secret.jpg,Male,41,Frontal,AP,,,,\n/etc/secret.jpg,Male,41,Frontal,AP,,,,\n"
    chexpert.write_text(CHEXPERT + line)
    source = open_source(str(chexpert))
    assert len(source) == 3
    assert list(source.damage.values()) == ["label", "columns", "columns"]


def test_chexpert_tells_present_absent_uncertain_and_unmentioned(chexpert):
    source = open_source(str(chexpert))
    assert isinstance(source, Source)
    classes = source.schema()["labels.class"].classes
    assert classes == ("Cardiomegaly", "No Finding|Support Devices")
    assert source.labels("class").tolist() == [1, 0, -1]
    assert source.schema()["labels.Edema"].classes == ("absent", "present", "uncertain")
    assert source.labels("Edema").tolist() == [-1, 2, 2]
    assert source[2].labels == {
        "class": -1,
        "No Finding": -1,
        "Cardiomegaly": 0,
        "Edema": 2,
        "Support Devices": -1,
    }
    assert source[0].images["main"].decode().size == (8, 8)
    assert list(source.damage.values()) == ["label"]


def test_nih_has_its_splits_and_the_folders_of_its_archives(nih):
    source = open_source(str(nih))
    assert isinstance(source, Source)
    classes = source.schema()["labels.class"].classes
    assert [classes[value] for value in source.labels("class")] == [
        "Cardiomegaly",
        "Cardiomegaly|Emphysema",
        "No Finding",
    ]
    assert source[1].labels["Emphysema"] == 1
    assert source[0].labels["Emphysema"] == 0
    assert all(sample.images["main"].decode().size == (8, 8) for sample in source)
    assert list(open_source(f"{nih}:split=test").keys()) == ["00000002_000.png"]
    assert len(open_source(f"{nih}:split=train")) == 2


def test_samples_of_several_findings_have_captions_of_each(nih, tmp_path):
    bank = tmp_path / "bank.json"
    bank.write_text(
        '{"Cardiomegaly": ["a large heart"], "Emphysema": ["trapped air"], "No Finding": ["well"]}'
    )
    source = open_source(f"{nih}:captions={bank}")
    assert [sample.captions() for sample in source] == [
        ["a large heart"],
        ["a large heart", "trapped air"],
        ["well"],
    ]


def test_bad_tables_are_refused(chexpert, nih, tmp_path):
    with pytest.raises(InputError, match="its first image, .* name the folder with :images=FOLDER"):
        open_source(f"{chexpert}:images={tmp_path / 'elsewhere'}")
    with pytest.raises(InputError, match="CheXpert has a table for each split"):
        open_source(f"{chexpert}:split=train")
    with pytest.raises(InputError, match="write split=train or split=test"):
        open_source(f"{nih}:split=val")
    (tmp_path / "test_list.txt").unlink()
    with pytest.raises(InputError, match="put NIH's list of the split test there"):
        open_source(f"{nih}:split=test")
    chexpert.write_text(CHEXPERT.splitlines()[0] + "\n")
    with pytest.raises(InputError, match="none of its rows can be read|no rows"):
        open_source(str(chexpert))
