"""From a folder of pictures to a classifier with other names, on the command line."""

import json
import shutil

import pytest

from diptych.data.sources import open_source

KINDS = "objects=banana+cat+guitar+house"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty scenes of four things, a folder a thing."""
    place = tmp_path_factory.mktemp("things")
    source = open_source(f"scenes:count=40:number=1:seed=9:{KINDS}")
    names = source.schema()["labels.object"].classes
    for sample in source:
        (place / names[sample.labels["object"]]).mkdir(exist_ok=True)
        sample.images["main"].decode().save(place / names[sample.labels["object"]] / f"{sample.key}.png")
    return place


@pytest.mark.parametrize("name", ["coop", "cocoop", "ivlp", "maple"])
def test_a_folder_becomes_a_classifier_that_takes_other_names(name, folder, diptych, tmp_path):
    run = tmp_path / "run"
    options = {"maple": ("--method.depth", "3"), "ivlp": ("--method.depth", "2", "--method.image_depth", "4")}
    words = ("--init", "tiny", "--data", folder, "--val", folder, "--steps", "4", "--batch-size", "8", "--quiet")
    called = diptych("train", name, *words, *options.get(name, ()), "--out", run)
    assert called.code == 0, called.err
    assert "validation: top1 " in called.err
    assert f"diptych classify {run} PICTURES" in called.out
    told = json.loads(diptych("classify", run, folder, "--json").out)
    assert told["names"] == ["banana", "cat", "guitar", "house"]
    right = [each["classes"][0]["name"] == each["path"].split("/")[-2] for each in told["pictures"]]
    assert sum(right) > 30
    other = json.loads(diptych("classify", run, folder, "--names", "violin,cat,tree", "--json").out)
    assert other["names"] == ["violin", "cat", "tree"]
    found = json.loads(
        diptych("evaluate", run, "--data", folder, "--suite", "zeroshot", "--novel", "half", "--json").out
    )
    numbers = found["results"]["zeroshot"] if "results" in found else found["zeroshot"]
    assert numbers["top1"] == pytest.approx(sum(right) / 40)
    assert {"base_top1", "novel_top1", "harmonic"} <= set(numbers)


def test_what_it_learnt_does_not_hang_on_its_base_being_there(folder, diptych, tmp_path):
    run, moved = tmp_path / "run", tmp_path / "moved"
    diptych(
        "train",
        "coop",
        "--init",
        "tiny",
        "--data",
        folder,
        "--steps",
        "1",
        "--batch-size",
        "8",
        "--quiet",
        "--out",
        run,
    )
    first = diptych("classify", run, folder, "--json").out
    shutil.move(run, moved)
    second = diptych("classify", moved, folder, "--json").out
    assert json.loads(first)["pictures"] == json.loads(second)["pictures"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "{folder}"), "name one with --init"),
        (("--init", "tiny", "--data", "scenes:count=8:texts=caption", "--method.label", "colours"), "labels.colours"),
        (("--init", "tiny", "--data", "{folder}", "--method.length", "70", "--method.start", "false"), "does not fit"),
        (("--init", "tiny-lm", "--data", "{folder}"), "image tower"),
    ],
)
def test_what_cannot_be_adapted_is_told_in_one_line(words, message, folder, refused, tmp_path):
    given = [folder if word == "{folder}" else word for word in words]
    assert message in refused("train", "coop", *given, "--batch-size", "4", "--steps", "1", "--quiet",
                              "--out", tmp_path / "run")  # fmt: skip
