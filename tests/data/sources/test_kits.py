"""KiTS on files of its form: kidneys are found by their masks, sides by the body, outcomes by case."""

import json

import numpy as np
import pytest
from tests.data.nifti import nifti

from diptych.data.sample import BadSample
from diptych.data.sources import open_source
from diptych.data.volumes import volume_of
from diptych.errors import InputError


def case(folder, name: str, kidneys: dict[str, int], stored: bool = True):
    """A case whose kidneys, by side, are boxes with a mass (0 none, 2 tumour, 3 cyst); axes of its
    files are head, back, right, as those of KiTS."""
    volume = np.arange(12 * 16 * 20, dtype=np.int16).reshape(12, 16, 20)  # head, back, left
    mask = np.zeros(volume.shape, np.uint8)
    for side, mass in kidneys.items():
        columns = slice(13, 18) if side == "left" else slice(2, 7)
        mask[3:9, 5:11, columns] = 1
        if mass:
            mask[5:7, 6:8, columns.start : columns.start + 2] = mass
    (folder / name).mkdir(parents=True)
    rows = ((0, 0, 1, 0), (0, -1, 0, 0), (1, 0, 0, 0))
    for file, values in (("imaging", volume), ("segmentation", mask)):
        if file == "imaging" or stored:
            data = nifti(values[:, :, ::-1], rows, packed=True)
            (folder / name / f"{file}.nii.gz").write_bytes(data)
    return volume


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "dataset"
    case(folder, "case_00000", {"left": 2, "right": 0})
    case(folder, "case_00001", {"right": 3})
    facts = [
        {"case_id": "case_00000", "malignant": True, "vital_status": "dead",
         "vital_days_after_surgery": 400, "tumor_histologic_subtype": "clear_cell_rcc"},
        {"case_id": "case_00001", "malignant": False, "vital_status": "censored",
         "vital_days_after_surgery": 90},
    ]  # fmt: skip
    (tmp_path / "kits.json").write_text(json.dumps(facts))
    return folder


def test_a_sample_is_a_kidney_with_a_margin_on_its_side(root, tmp_path):
    source = open_source(f"{root}:margin=0.2")
    volume = case(tmp_path / "again", "case_00000", {})
    assert list(source.keys())[:2] == ["case_00000-left", "case_00000-right"]
    left, right = volume_of(source[0].images["main"]), volume_of(source[1].images["main"])
    np.testing.assert_array_equal(left, volume[2:10, 4:12, 12:19])
    np.testing.assert_array_equal(right, volume[2:10, 4:12, 1:8])
    none = volume_of(open_source(f"{root}:margin=0")[0].images["main"])
    np.testing.assert_array_equal(none, volume[3:9, 5:11, 13:18])


def test_outcomes_are_of_the_side_with_the_tumour(root):
    source = open_source(str(root))
    left, right, cyst = (source[at].labels for at in (0, 1, 3))
    assert (left["mass"], left["malignant"], left["death_time"], left["death_event"]) == (
        2,
        1,
        400,
        1,
    )
    assert (right["mass"], right["malignant"], right["death_event"]) == (0, -1, -1)
    assert np.isnan(right["death_time"])
    assert (cyst["patient"], cyst["side"], cyst["mass"], cyst["malignant"]) == (1, 1, 1, -1)
    with pytest.raises(BadSample, match="no left kidney"):
        source[2]
    assert source.labels("patient").tolist() == [0, 0, 1, 1]
    assert source.labels("side").tolist() == [0, 1, 0, 1]
    assert source.labels("mass").tolist() == [2, 0, -1, 1]


def test_damage_is_named(root):
    case(root, "case_00002", {"left": 0}, stored=False)
    with pytest.raises(InputError, match=r"case_00002 has no segmentation.nii.gz"):
        open_source(str(root))
    case(root / "other", "case_0", {"left": 0})
    (root / "other" / "kits.json").write_text("{}")
    with pytest.raises(InputError, match="no list of cases"):
        open_source(str(root / "other"))
