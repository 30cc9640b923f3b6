"""`diptych compose`: from two training commands to an image that is found, and what cannot be
read."""

import json

import pytest
from tests.cli.helpers import TINY

from diptych.data.sources import open_source

SCENES = "scenes:objects=shapes:number=2:same=0:size=32:siblings=6:texts=caption"
SIZES = (
    "--method.width",
    16,
    "--method.depth",
    1,
    "--method.heads",
    2,
    "--method.queries",
    2,
    "--method.embed",
    8,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a base model, a run of sprc, and twelve images."""
    from diptych.cli import main

    folder = tmp_path_factory.mktemp("compose")
    data = ("--data", f"{SCENES}:count=24", "--quiet")
    last = ("--steps", 2, "--batch-size", 8)
    for words in (
        ("train", "clip", *data, *TINY, "--out", folder / "base"),
        ("train", "sprc", *data, "--init", folder / "base", *SIZES, *last, "--out", folder / "run"),
    ):
        assert main([str(word) for word in words]) == 0
    (folder / "photos").mkdir()
    for sample in open_source(f"{SCENES}:count=12:split=val"):
        sample.images["main"].decode().save(folder / "photos" / f"{sample.key}.png")
    return folder


def test_images_are_told_best_first_and_the_reference_is_none_of_them(trained, diptych):
    reference = min((trained / "photos").glob("*.png"))
    words = ("compose", trained / "run", trained / "photos", reference, "make the circle red")
    called = diptych(*words, "--json", "-k", 20)
    assert called.code == 0, called
    reported = json.loads(called.out)
    paths = [each["path"] for each in reported["images"]]
    assert len(set(paths)) == 11
    assert str(reference) not in paths
    scores = [each["score"] for each in reported["images"]]
    assert scores == sorted(scores, reverse=True)
    assert [each["rank"] for each in reported["images"]] == list(range(1, 12))
    table = diptych(*words, "-k", 3).out
    assert [line.split()[-1] for line in table.splitlines() if line.strip()[:1].isdigit()] == paths[
        :3
    ]


def test_training_tells_what_to_do_next(trained, diptych, tmp_path):
    words = (
        "train",
        "sprc",
        "--data",
        f"{SCENES}:count=24",
        "--init",
        trained / "base",
        *SIZES,
        "--steps",
        1,
        "--batch-size",
        8,
        "--out",
        tmp_path / "run",
    )
    called = diptych(*words)
    assert (
        f"diptych compose {tmp_path / 'run'} IMAGES REFERENCE 'make it blue'"
        in called.out + called.err
    )


def test_suites_measure_a_run_from_the_command_line(trained, diptych):
    called = diptych(
        "evaluate",
        trained / "run",
        "--data",
        f"{SCENES}:count=24:split=val",
        "--suite",
        "composed",
        "--siblings",
        "scene",
        "--keep-reference",
    )
    assert called.code == 0, called
    assert "20 queries, 24 images" in called.out
    assert "composed by edit" in called.out


def test_a_corrupt_image_is_left_out_and_told(trained, diptych, tmp_path):
    (tmp_path / "photos").mkdir()
    paths = sorted((trained / "photos").glob("*.png"))
    for path in paths[:4]:
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "photos" / "broken.png").write_bytes(paths[5].read_bytes()[:50])
    called = diptych(
        "compose", trained / "run", tmp_path / "photos", paths[0], "remove the star", "--json"
    )
    assert len(json.loads(called.out)["images"]) == 3
    assert "left out, as they cannot be read: 1 " in called.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "has no model"),
        (("run",), "has no images"),
        (("run", "photos"), "has no reference"),
        (("run", "photos", "x.png"), "has no instruction"),
        (
            ("{run}", "{photos}", "{photos}/none.png", "make it blue"),
            "none.png cannot be read (missing",
        ),
        (("{run}", "{photos}", "{first}", " . "), "1 of them empty"),
        (("{run}", "{photos}", "{first}", "make it blue", "-k", "0"), "-k is 0"),
        (
            ("tiny", "{photos}", "{first}", "make it blue"),
            "diptych compose needs a model with compose, which",
        ),
    ],
)
def test_what_is_missing_is_told(trained, refused, words, message):
    places = {
        "run": trained / "run",
        "photos": trained / "photos",
        "first": min((trained / "photos").glob("*.png")),
    }
    assert message in refused("compose", *(word.format(**places) for word in words))
