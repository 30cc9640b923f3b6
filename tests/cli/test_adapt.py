"""From a folder of images to a classifier with other names, on the command line."""

import json
import shutil

import pytest

from diptych.data.sources import open_source
from diptych.methods.store import load

KINDS = "objects=banana+cat+guitar+house"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty scenes of four things, a folder a thing."""
    place = tmp_path_factory.mktemp("things")
    source = open_source(f"scenes:count=40:number=1:seed=9:{KINDS}")
    names = source.schema()["labels.object"].classes
    for sample in source:
        (place / names[sample.labels["object"]]).mkdir(exist_ok=True)
        sample.images["main"].decode().save(
            place / names[sample.labels["object"]] / f"{sample.key}.png"
        )
    return place


@pytest.mark.parametrize("name", ["coop", "cocoop", "ctp_tft", "ivlp", "maple", "mocoop"])
def test_a_folder_becomes_a_classifier_that_takes_other_names(name, folder, diptych, tmp_path):
    run = tmp_path / "run"
    options = {
        "maple": ("--method.depth", "3"),
        "ivlp": ("--method.depth", "2", "--method.image_depth", "4"),
    }
    words = (
        "--init",
        "tiny",
        "--data",
        folder,
        "--val",
        folder,
        "--steps",
        "4",
        "--batch-size",
        "8",
        "--quiet",
    )
    called = diptych("train", name, *words, *options.get(name, ()), "--out", run)
    assert called.code == 0, called.err
    assert "validation: top1 " in called.err
    assert f"diptych classify {run} IMAGES" in called.out
    reported = json.loads(diptych("classify", run, folder, "--json").out)
    assert reported["names"] == ["banana", "cat", "guitar", "house"]
    right = [
        each["classes"][0]["name"] == each["path"].split("/")[-2] for each in reported["images"]
    ]
    assert sum(right) > 30
    other = json.loads(diptych("classify", run, folder, "--names", "violin,cat,tree", "--json").out)
    assert other["names"] == ["violin", "cat", "tree"]
    found = json.loads(
        diptych(
            "evaluate", run, "--data", folder, "--suite", "zeroshot", "--novel", "half", "--json"
        ).out
    )
    numbers = found["results"]["zeroshot"] if "results" in found else found["zeroshot"]
    assert numbers["top1"] == pytest.approx(sum(right) / 40)
    assert {"base_top1", "novel_top1", "harmonic"} <= set(numbers)


def test_prompts_are_searched_shown_and_used_for_other_names_too(folder, diptych, tmp_path, caplog):
    run, reported = tmp_path / "run", tmp_path / "told.json"
    names = ["banana", "cat", "guitar", "house"]
    reported.write_text(
        json.dumps({name: [f"It is a {other}." for other in names] for name in names})
    )
    words = (
        "--init",
        "tiny",
        "--data",
        folder,
        "--shots",
        "1",
        "--val",
        folder,
        "--quiet",
        "--method.rounds",
        "1",
    )
    called = diptych(
        "train",
        "proapo",
        *words,
        "--method.descriptions",
        reported,
        "--method.types",
        "[drawing]",
        "--out",
        run,
    )
    assert called.code == 0, called.err
    assert "validation: top1 " in called.err
    assert f"diptych info {run}" in called.out
    kept = json.loads(diptych("info", run, "--json").out)["kept"]
    assert kept["classes"] == names
    assert len(kept["templates"]) >= 1
    said = {name: set(units[name]) for name, units in kept["prompts"].items()}
    assert set(said) == set(names)
    assert set.union(*said.values()) <= {"", *(f"it is a {name}." for name in names)}
    assert "prompts cat" in diptych("info", run).out
    reported.unlink()
    named = json.loads(diptych("classify", run, folder, "--json").out)
    right = [each["classes"][0]["name"] == each["path"].split("/")[-2] for each in named["images"]]
    assert sum(right) > 30
    other = diptych("classify", run, folder, "--names", "violin,cat", "--json")
    assert json.loads(other.out)["names"] == ["violin", "cat"]
    assert "no sentences were chosen for violin (1 of 2 classes)" in caplog.text


def test_sentences_that_lack_a_class_are_refused_before_anything_is_searched(
    folder, refused, tmp_path
):
    reported = tmp_path / "told.json"
    reported.write_text(json.dumps({"cat": ["It purrs."]}))
    words = (
        "--init",
        "tiny",
        "--data",
        folder,
        "--method.descriptions",
        reported,
        "--out",
        tmp_path / "run",
    )
    assert "there is no class 'banana'" in refused("train", "proapo", *words)


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
    assert json.loads(first)["images"] == json.loads(second)["images"]


def test_validation_on_other_classes_leaves_training_as_it_is(folder, diptych, tmp_path):
    """The classes of --val are its own: fewer, and numbered otherwise."""
    other = tmp_path / "other"
    shutil.copytree(folder / "guitar", other / "guitar")
    shutil.copytree(folder / "house", other / "house")
    words = (
        "train",
        "coop",
        "--init",
        "tiny",
        "--data",
        folder,
        "--epochs",
        "2",
        "--batch-size",
        "8",
        "--quiet",
    )
    assert diptych(*words, "--out", tmp_path / "a").code == 0
    assert diptych(*words, "--val", other, "--out", tmp_path / "b").code == 0
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
            if '"loss"' in line
        ]
        for name in "ab"
    ]
    assert losses[0] == losses[1]
    assert json.loads((tmp_path / "b" / "model.json").read_text())["kept"]["classes"] == [
        "banana",
        "cat",
        "guitar",
        "house",
    ]


def test_images_without_classes_get_those_of_the_run(folder, diptych, refused, tmp_path):
    run, loose = tmp_path / "run", tmp_path / "loose"
    words = ("--init", "tiny", "--data", folder, "--steps", "1", "--batch-size", "8", "--quiet")
    assert diptych("train", "maple", "--method.depth", "2", *words, "--out", run).code == 0
    loose.mkdir()
    for path in sorted(folder.glob("*/*.png"))[:5]:
        shutil.copy(path, loose / path.name)
        (loose / path.name).with_suffix(".txt").write_text("a thing")
    reported = json.loads(diptych("classify", run, loose, "--json").out)
    assert reported["names"] == ["banana", "cat", "guitar", "house"]
    one = json.loads(diptych("classify", run, loose / path.name, "--json").out)
    assert one["names"] == reported["names"]
    assert "prompts of its own" in refused("classify", run, loose, "--templates", "plain")
    assert "prompts of its own" in refused(
        "evaluate", run, "--data", folder, "--suite", "zeroshot", "--templates", "plain"
    )


def test_groups_of_ones_own_are_kept_in_the_run_and_told_of_each_image(
    folder, diptych, refused, tmp_path
):
    run, groups = tmp_path / "run", tmp_path / "groups.json"
    groups.write_text(
        json.dumps(
            {"plain": ["a {}", "the {}"], "drawn": ["a pencil drawing of a {}, in pale colours"]}
        )
    )
    words = ("--init", "tiny", "--data", folder, "--steps", "2", "--batch-size", "2", "--quiet")
    called = diptych(
        "train",
        "mocoop",
        *words,
        "--method.templates",
        groups,
        "--method.names",
        "owl,cat",
        "--out",
        run,
    )
    assert called.code == 0, called.err
    groups.unlink()
    reported = json.loads(
        diptych("classify", run, folder, "--names", "cat,tree", "--route", "--json").out
    )
    assert reported["names"] == ["cat", "tree"]
    for each in reported["images"]:
        assert sorted(group["name"] for group in each["groups"]) == ["drawn", "plain"]
        assert sum(group["weight"] for group in each["groups"]) == pytest.approx(1, abs=1e-5)
    table = diptych("classify", run, next(folder.glob("*/*.png")), "--route").out
    assert "groups" in table
    assert "plain 0." in table
    assert "plain 0." not in diptych("classify", run, folder).out
    assert "--route needs a model with route, which" in refused(
        "classify", "tiny", folder, "--route"
    )
    again = diptych("train", "mocoop", "--config", run / "config.yaml", "--out", tmp_path / "again")
    assert again.code == 0, again.err
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "again")]
    assert weights[0] == weights[1]


def test_a_run_whose_options_were_called_otherwise_goes_on_and_is_repeated(
    folder, diptych, refused, tmp_path
):
    run, options = tmp_path / "run", tmp_path / "options.yaml"
    words = ("--init", "tiny", "--data", folder, "--steps", "2", "--batch-size", "8", "--quiet")
    assert diptych("train", "maple", *words, "--method.n_ctx", "3", "--out", run).code == 0
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("n_ctx: 3", "length: 3"))
    with pytest.warns(
        FutureWarning, match="config.yaml: option of maple 'length' is called 'n_ctx' now"
    ):
        assert diptych("train", "--resume", "--out", run).code == 0
    with pytest.warns(FutureWarning, match="'length'"):
        again = diptych("train", "--config", run / "config.yaml", "--out", tmp_path / "again")
    assert again.code == 0, again.err
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "again")]
    assert weights[0] == weights[1]
    options.write_text("config: {length: 3}")  # of no method, so that these are the user's words
    message = refused("train", "maple", "--config", options, *words, "--out", tmp_path / "other")
    assert "method.length is called method.n_ctx now; write method.n_ctx" in message


def test_a_lora_run_is_an_encoder_as_any_other_once_it_is_loaded(folder, diptych, tmp_path):
    run, next_run = tmp_path / "run", tmp_path / "next"
    words = ("--data", folder, "--steps", "2", "--batch-size", "8", "--quiet")
    assert diptych("train", "lora", "--init", "tiny", *words, "--out", run).code == 0
    model, tiny = load(run), load("tiny")
    assert model.encoder.state_dict().keys() == tiny.encoder.state_dict().keys()
    moved = [
        name
        for name, value in tiny.encoder.state_dict().items()
        if not value.equal(model.encoder.state_dict()[name])
    ]
    assert moved
    assert all(name.endswith(("q.weight", "v.weight")) for name in moved)
    called = diptych("train", "coop", "--init", run, *words, "--out", next_run)
    assert called.code == 0, called.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "{folder}"), "name one with --init"),
        (
            (
                "--init",
                "tiny",
                "--data",
                "scenes:count=8:texts=caption",
                "--method.label",
                "colours",
            ),
            "labels.colours",
        ),
        (
            (
                "--init",
                "tiny",
                "--data",
                "{folder}",
                "--method.n_ctx",
                "70",
                "--method.init_from_template",
                "false",
            ),
            "does not fit",
        ),
        (
            ("--init", "tiny", "--data", "{folder}", "--method.length", "4"),
            "is called --method.n_ctx now; write",
        ),
        (("--init", "tiny-lm", "--data", "{folder}"), "image tower"),
        (("--init", "{images}", "--data", "{folder}"), "start from one of images and texts"),
    ],
)
def test_what_cannot_be_adapted_is_told_in_one_line(
    words, message, folder, diptych, refused, tmp_path
):
    images = tmp_path / "images"
    if "{images}" in words:
        few = ("--data", folder, "--steps", "1", "--batch-size", "4", "--quiet")
        assert diptych("train", "simclr", *few, "--out", images).code == 0
    given = [{"{folder}": folder, "{images}": images}.get(word, word) for word in words]
    assert message in refused(
        "train",
        "coop",
        *given,
        "--batch-size",
        "4",
        "--steps",
        "1",
        "--quiet",
        "--out",
        tmp_path / "run",
    )


def test_a_bank_of_descriptions_becomes_captions_pairs_and_a_probe(folder, diptych, tmp_path):
    run, bank = tmp_path / "run", tmp_path / "bank.json"
    colours = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink")
    bank.write_text(
        json.dumps(
            {
                name: [f"a {colour} {name}" for colour in colours]
                for name in ("banana", "cat", "guitar", "house")
            }
        )
    )
    words = ("--init", "tiny", "--data", folder, "--steps", "4", "--batch-size", "8", "--quiet")
    called = diptych("train", "gist", *words, "--method.bank", bank, "--out", run)
    assert called.code == 0, called.err
    assert f"diptych evaluate {run} --data SOURCE --suite probe,zeroshot" in called.out
    source = open_source(str(folder))
    found = json.loads((run / "captions_top5.json").read_text())
    assert list(found) == list(source.keys())
    scenes = open_source(f"scenes:count=40:number=1:seed=9:{KINDS}")
    names = scenes.schema()["labels.colour"].classes
    reported = {f"{sample.key}.png": names[sample.labels["colour"]] for sample in scenes}
    assert (
        sum(reported[key.split("/")[1]] in texts[0] for key, texts in found.items()) > 30
    )  # the colour is seen
    assert all(key.split("/")[0] in text for key, texts in found.items() for text in texts)
    measure = (
        "evaluate",
        run,
        "--data",
        folder,
        "--train",
        folder,
        "--val",
        folder,
        "--suite",
        "probe",
    )
    probed = json.loads(
        diptych(
            *measure, "--fit", "sgd", "--features", "projected", "--bootstrap", "20", "--json"
        ).out
    )
    numbers = probed["results"]["probe"] if "results" in probed else probed["probe"]
    assert numbers["epoch"] == 1000
    assert {"linear_top1_std", "linear_top3_std"} <= set(numbers)
    assert numbers["linear_top1"] > 0.9
