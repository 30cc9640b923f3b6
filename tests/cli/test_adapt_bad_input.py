"""Bad images and names of classes: what adaptation and naming say of them, on the command line."""

import json

import pytest
from tests.cli.helpers import encoded, image

LONG = "d o g " * 40  # a folder may have 255 letters


def classes(root, **counts):
    """A folder with so many images of each class."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.png").write_bytes(encoded(image(number)))
    return root


def words(data, run, shots=2):
    how = ("--init", "tiny", "--steps", 2, "--batch-size", 4, "--quiet")
    return (
        "train",
        "coop",
        *how,
        "--data",
        data,
        "--out",
        run,
        *(("--shots", shots) if shots else ()),
    )


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    return classes(tmp_path_factory.mktemp("data") / "pets", cat=2, dog=2)


@pytest.fixture
def run(diptych, pets, tmp_path):
    assert diptych(*words(pets, tmp_path / "run")).code == 0
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("counts", "shots", "parts"),
    [
        (
            {"cat": 2, "bird": 0},
            2,
            ["shots=2 of", "pets", "bird (0)", "ask for fewer", ":classes="],
        ),
        ({"cat": 4, "bird": 0}, None, ["pets", "has no sample of bird", "add some", ":classes="]),
        (
            {"Cat": 2, "cat": 2},
            2,
            ["pets", "two classes are called 'Cat' and 'cat'", "give each a name"],
        ),
        ({"cat": 2, "dog": 1}, 3, ["shots=3 of", "pets", "cat (2)", "dog (1)", "ask for fewer"]),
        (
            {"cat": 2, LONG.strip(): 2},
            2,
            ["pets", "the class name 'd o g d o g ", "does not fit", "shorten it"],
        ),
    ],
    ids=["empty", "empty-without-shots", "twins", "few", "long"],
)
def test_classes_that_cannot_be_learnt_are_told_before_the_first_step(
    refused, tmp_path, counts, shots, parts
):
    message = refused(*words(classes(tmp_path / "pets", **counts), tmp_path / "run", shots))
    assert [part for part in parts if part not in message] == []
    assert not (tmp_path / "run" / "model.json").exists()


def test_a_class_folder_without_images_may_be_left_out(diptych, tmp_path):
    data = classes(tmp_path / "pets", cat=2, bird=0, dog=2)
    called = diptych(*words(f"{data}:classes=cat+dog", tmp_path / "run"))
    assert called.code == 0, called
    assert json.loads((tmp_path / "run" / "model.json").read_text())["kept"]["classes"] == [
        "cat",
        "dog",
    ]


def test_a_corrupt_image_is_named_where_it_is_refused_and_where_it_is_passed_over(
    diptych, refused, tmp_path
):
    data = classes(tmp_path / "pets", cat=2, dog=2)
    broken = data / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    message = refused(*words(data, tmp_path / "run"))
    for part in ("1 of 4 samples", "1 truncated; such as dog/1.png", "diptych check", "--max-bad"):
        assert part in message
    called = diptych(*words(data, tmp_path / "kept"), "--max-bad", "0.3")
    assert called.code == 0, called
    assert "1 truncated; such as dog/1.png" in called.err
    assert json.loads((tmp_path / "kept" / "model.json").read_text())["training"]["damaged"] == {
        "truncated": 1
    }
    reported = diptych("classify", tmp_path / "kept", data, "--json")
    assert json.loads(reported.out)["bad"] == {"truncated": 1}
    assert "1 truncated (`diptych check" in reported.err


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cat,cat", "two classes are called 'cat'; give each a name"),
        ("Cat,cat", "two classes are called 'Cat' and 'cat'; give each a name"),
        (f"cat,{LONG * 2}", "the class name 'd o g d o g "),
    ],
    ids=["same", "twins", "long"],
)
@pytest.mark.parametrize("adapted", [True, False])
def test_names_that_cannot_be_told_apart_are_refused(
    refused, request, pets, names, message, adapted
):
    model = request.getfixturevalue("run") if adapted else "tiny"
    assert message in refused("classify", model, pets, "--names", names)
