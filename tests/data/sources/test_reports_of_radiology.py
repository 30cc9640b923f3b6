"""Reports of radiology in their published forms: Open-I, MIMIC-CXR, and MS-CXR, which is written too."""

import gzip
import json

import numpy as np
import pytest
from PIL import Image

from diptych.data.sample import BadSample
from diptych.data.sources import open_source
from diptych.data.sources._sections import sections
from diptych.data.sources.ms_cxr import COLUMNS, FILE, write
from diptych.errors import InputError
from diptych.testing import Toy

# ---- Open-I

OPEN_I = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
  <meta type="rr"/><uId id="CXR{number}"/>
  <MedlineCitation Owner="Indiana" Status="Completed"><Article PubModel="Electronic"><Abstract>
    <AbstractText Label="COMPARISON">None.</AbstractText>
    <AbstractText Label="INDICATION">Positive TB test</AbstractText>
    <AbstractText Label="FINDINGS">{findings}</AbstractText>
    <AbstractText Label="IMPRESSION">{impression}</AbstractText>
  </Abstract></Article></MedlineCitation>
  <MeSH><major>normal</major></MeSH>
  {images}
</eCitation>
"""
IMAGE = '<parentImage id="{name}"><figureId>F1</figureId><caption>Chest</caption></parentImage>'


def draw(path, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, 90).save(path)


@pytest.fixture
def open_i(tmp_path):
    root = tmp_path / "NLMCXR"
    (root / "ecgen-radiology").mkdir(parents=True)
    reports = {
        1: ("The cardiac silhouette is\n normal.", "Normal chest.", ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"]),
        2: ("Borderline heart.", "", ["CXR2_IM-0652-1001"]),
        3: ("", "", ["CXR3_IM-1384-1001"]),
        10: ("", "Clear lungs.", []),
    }  # fmt: skip
    for number, (findings, impression, names) in reports.items():
        text = OPEN_I.format(
            number=number,
            findings=findings,
            impression=impression,
            images="".join(IMAGE.format(name=name) for name in names),
        )
        (root / "ecgen-radiology" / f"{number}.xml").write_text(text, "utf-8")
        for name in names:
            draw(root / "NLMCXR_png" / f"{name}.png")
    (root / "ecgen-radiology" / "4.xml").write_text("<eCitation>", "utf-8")
    return root


def test_open_i_has_a_sample_for_each_image(open_i):
    source = open_source(str(open_i))
    names = ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001", "CXR2_IM-0652-1001"]
    assert list(source.keys()) == names
    sample = source[0]
    assert sample.captions("findings") == ["The cardiac silhouette is normal."]
    assert sample.captions("impression") == ["Normal chest."]
    assert sample.images["main"].decode().size == (8, 8)
    assert source[2].captions("impression") == []
    assert sorted(source.damage.values()) == ["no-sections", "xml"]
    assert not source.schema()["images.main"].optional


def test_open_i_has_a_sample_for_each_report(open_i):
    source = open_source(f"{open_i / 'ecgen-radiology'}:each=report")
    assert list(source.keys()) == ["1", "2", "10"]
    assert source.schema()["images.main"].optional
    assert [len(sample.images) for sample in map(source.__getitem__, range(3))] == [1, 1, 0]


def test_open_i_without_its_images_is_refused(open_i, tmp_path):
    with pytest.raises(InputError, match=r"its first image, CXR1_1_IM-0001-3001\.png"):
        open_source(f"{open_i}:images={tmp_path}")
    for path in (open_i / "ecgen-radiology").glob("*.xml"):
        path.unlink()
    with pytest.raises(InputError, match="none of its .xml files"):
        open_source(str(open_i))


# ---- MIMIC-CXR

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ with cough.

 FINDINGS:

 There is no focal consolidation, pleural effusion or
 pneumothorax.  Heart: normal.

 IMPRESSION:

 No acute process.
"""


@pytest.fixture
def mimic(tmp_path):
    root = tmp_path / "mimic-cxr-jpg"
    rows = [
        ("aa-1", "50000001", "10000032", "train", "PA", REPORT),
        ("aa-2", "50000001", "10000032", "train", "LATERAL", REPORT),
        ("bb-1", "50000002", "10000033", "validate", "AP", "WET READ: no pneumonia\n"),
        ("cc-1", "50000003", "11000034", "test", "AP", "IMPRESSION: Clear.\n"),
    ]
    splits = ["dicom_id,study_id,subject_id,split"]
    views = ["dicom_id,subject_id,study_id,ViewPosition"]
    for dicom, study, subject, split, view, report in rows:
        folder = root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}"
        draw(folder / f"{dicom}.jpg")
        folder.with_suffix(".txt").write_text(report)
        splits.append(f"{dicom},{study},{subject},{split}")
        views.append(f"{dicom},{subject},{study},{view}")
    with gzip.open(root / "mimic-cxr-2.0.0-split.csv.gz", "wt") as file:
        file.write("\n".join(splits))
    (root / "mimic-cxr-2.0.0-metadata.csv").write_text("\n".join(views))
    return root


def test_sections_end_at_the_next_heading():
    found = sections(REPORT)
    assert found["findings"] == (
        "There is no focal consolidation, pleural effusion or pneumothorax. Heart: normal."
    )
    assert found["impression"] == "No acute process."
    assert sections("FINDINGS AND IMPRESSION: both") == {}
    assert sections("CONCLUSION: Normal.\nIMPRESSION:\n\n") == {"impression": "Normal."}


def test_mimic_has_a_sample_for_each_image(mimic):
    source = open_source(str(mimic))
    assert list(source.keys()) == ["aa-1", "aa-2", "bb-1", "cc-1"]
    assert source[1].captions("impression") == ["No acute process."]
    assert source[1].images["main"].decode().size == (8, 8)
    with pytest.raises(BadSample, match="no-sections"):
        source[2]
    assert list(open_source(f"{mimic}:split=train:each=study").keys()) == ["aa-1"]
    assert list(open_source(f"{mimic}:views=PA+AP").keys()) == ["aa-1", "bb-1", "cc-1"]


def test_mimic_without_images_has_texts_alone(mimic):
    for path in mimic.rglob("*.jpg"):
        path.unlink()
    source = open_source(f"{mimic}:split=train")
    assert "images.main" not in source.schema()
    assert len(source) == 1
    assert not source[0].images


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (":split=val", "did you mean 'validate'"),
        (":views=PB", "did you mean 'PA'"),
        (":split=test:views=PA", "no image is of this split"),
        (":reports=elsewhere", r"name the folder with :reports=FOLDER"),
    ],
)
def test_bad_options_of_mimic_are_refused(mimic, options, said):
    with pytest.raises(InputError, match=said):
        open_source(f"{mimic}{options}")


# ---- MS-CXR

ROWS = [
    ("a", "Pneumonia", "left basal opacity", 10, 20, 30, 40, 100, 120, "test"),
    ("a", "Pneumonia", "left basal opacity", 60, 20, 10, 10, 100, 120, "test"),
    ("a", "Edema", "mild edema", 0, 0, 100, 60, 100, 120, "test"),
    ("b", "Edema", "severe, central edema", 1.5, 2.5, 3, 4, 100, 120, "val"),
    ("b", "Edema", "", 1, 2, 3, 4, 100, 120, "val"),
    ("../b", "Edema", "edema", 1, 2, 3, 4, 100, 120, "val"),
]


@pytest.fixture
def table(tmp_path):
    lines = [",".join(COLUMNS)]
    lines += [",".join(f'"{value}"' for value in row) for row in ROWS]
    (tmp_path / "local.csv").write_text("\n".join(lines))
    for name in ("a", "b"):
        draw(tmp_path / "images" / f"{name}.jpg", (100, 120))
    return tmp_path / "local.csv"


def test_phrases_have_all_of_their_boxes(table):
    source = open_source(str(table))
    assert list(source.keys()) == ["a", "b"]
    assert source.schema()["boxes"].classes == ("Edema", "Pneumonia")
    sample = source[0]
    assert sample.captions() == ["left basal opacity", "mild edema"]
    assert [box.xyxy for box in sample.boxes] == [
        (10, 20, 40, 60),
        (60, 20, 70, 30),
        (0, 0, 100, 60),
    ]
    assert [box.label for box in sample.boxes] == [1, 1, 0]
    assert sample.images["main"].decode().size == (100, 120)
    assert set(source.damage.values()) == {"columns"}
    assert len(source.damage) == 2
    assert list(open_source(f"{table}:split=val").keys()) == ["b"]
    with pytest.raises(InputError, match="did you mean 'test'"):
        open_source(f"{table}:split=tset")


def test_the_json_form_has_paths(table):
    path = table.parent / "MS_CXR_Local_Alignment_v1.0.0.json"
    data = {
        "categories": [{"id": 1, "name": "Edema"}],
        "images": [{"id": 7, "file_name": "a.jpg", "path": "images/a.jpg", "width": 100, "height": 120}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "label_text": "mild edema"},
            {"id": 2, "image_id": 8, "category_id": 1, "bbox": [1, 2, 3, 4], "label_text": "edema"},
        ],
    }  # fmt: skip
    path.write_text(json.dumps(data))
    source = open_source(str(path))
    assert source[0].boxes[0].xyxy == (1, 2, 4, 6)
    assert len(source.damage) == 1
    path.write_text(json.dumps({"images": []}))
    with pytest.raises(InputError, match="MS-CXR has categories"):
        open_source(str(path))


def test_what_is_written_is_read(tmp_path):
    world = open_source("reports:count=4:size=32")
    phrases = write(world, tmp_path / "out")
    source = open_source(str(tmp_path / "out" / FILE))
    assert phrases == sum(len(sample.captions()) for sample in source)
    boxed = [sample for sample in world if sample.boxes]
    assert len(source) == len(boxed)
    names = world.schema()["boxes"].classes
    for own, read in zip(boxed, source, strict=True):
        assert [box.xyxy for box in read.boxes] == [box.xyxy for box in own.boxes]
        assert [box.text for box in read.boxes] == [box.text for box in own.boxes]
        assert [source.classes[box.label] for box in read.boxes] == [
            names[box.label] for box in own.boxes
        ]
        images = [np.asarray(each.images["main"].decode()) for each in (own, read)]
        assert np.array_equal(*images)
    with pytest.raises(InputError, match="holds other files"):
        write(world, tmp_path / "out")
    with pytest.raises(InputError, match="no sample of toy has boxes"):
        write(Toy(2), tmp_path / "none")
