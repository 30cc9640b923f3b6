"""From volumes with reports to written reports of one's own volumes, on the command line."""

import json

import numpy as np
import pytest
from tests.data.nifti import nifti

from diptych.data.sources import open_source

DATA = "kidneys:count=16:slices=8:size=16"
TINY = (
    *("--image-tower", "resnet3d:image_size=16:slices=8:widths=(4,8):depths=(1,1):stem=3"),
    *("--text-tower", "text:width=16:depth=1:heads=2:causal=false:pooling=mean"),
    *("--embed-dim", "16", "--method.knowledge", "[]"),
)
STEPS = ("--steps", "1", "--batch-size", "8", "--quiet")
REPORT = ("train", "renalclip", "--preset", "report", "--data", DATA, *STEPS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("renalclip")


@pytest.fixture
def begun(diptych, folder):
    """A run whose towers are aligned, made once."""
    run = folder / "kidneys"
    if not run.exists():
        called = diptych("train", "renalclip", "--data", DATA, *TINY, *STEPS, "--out", run)
        assert called.code == 0, called.err
    return run


def test_a_run_learns_to_write_and_writes_about_files(diptych, begun, folder):
    run = folder / "reports"
    short = ("--method.tokens", "4", "--method.max_tokens", "5")
    called = diptych(*REPORT, "--init", begun, *short, "--out", run)
    assert called.code == 0, called.err
    assert f"diptych generate {run} --images VOLUMES" in called.out
    assert f"diptych evaluate {run} --data SOURCE --suite captions" in called.out
    scans = folder / "scans"
    scans.mkdir()
    source = open_source(DATA)
    np.save(scans / "a.npy", source[0].images["main"].volume())
    values = source[1].images["main"].volume().astype(np.int16).transpose(2, 1, 0)
    (scans / "b.nii.gz").write_bytes(nifti(values, packed=True))
    called = diptych("generate", run, "--images", scans, "--json")
    assert called.code == 0, called.err
    found = json.loads(called.out)
    assert [each["path"].rpartition("/")[2] for each in found] == ["a.npy", "b.nii.gz"]
    called = diptych("generate", run, "--images", scans / "a.npy", "--json")
    assert json.loads(called.out)[0]["text"] == found[0]["text"]
    called = diptych("evaluate", run, "--data", DATA, "--suite", "captions", "--json")
    assert called.code == 0, called.err
    assert diptych("info", run).code == 0


def test_bad_input_is_one_line(refused, begun, folder):
    start = (*REPORT, "--init", begun, "--out", folder / "bad")
    assert "lm=tiny is no language model" in refused(*start, "--method.lm", "tiny")
    assert "no linear layer 'up'" in refused(*start, "--method.tune", "lora:layers=up")
    assert "126 virtual tokens" in refused(*start, "--method.tokens", "126")
    assert "texts.impression" in refused(*start, "--method.role", "impression")
    assert "adapts a model" in refused(*REPORT, "--out", folder / "bad")
    other = ("--preset", "report", "--data", f"text={DATA}", "--init", begun)
    assert "stream of renalclip 'text'" in refused(
        "train", "renalclip", *other, *STEPS, "--out", folder / "bad"
    )
    line = refused(*REPORT, "--init", "tiny", "--out", folder / "bad")
    assert "renalclip reads volumes" in line
    assert not (folder / "bad").exists()
    np.save(folder / "flat.npy", np.zeros((4, 4)))
    reports = folder / "reports"
    if reports.exists():
        assert "axes" in refused("generate", reports, "--images", folder / "flat.npy")
    assert "which" in refused("generate", begun, "--images", folder / "flat.npy")
