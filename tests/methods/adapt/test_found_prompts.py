"""Prompts that a run of a search found, in place of templates: zero-shot on the same model and on
another, in the cache of votes, as the start of concepts."""

import json
import shutil

import pytest
import torch
from torch.nn.functional import normalize

import diptych
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.embed import Steps
from diptych.evaluation.suites._class_scores import prompt_vectors
from diptych.methods.adapt.cones import Config
from diptych.methods.store import read_prompts

NAMES = ("vell cat", "bus", "red_house")
SENTENCES = {
    "vell cat": ["the cat is red.", "the cat is blue.", "it is small."],
    "bus": ["a bus on the grass."],
    "red house": ["a house is red.", "a house is in the water."],
}
SHORT = {"templates": "a {} | one {}.", "generations": 2, "rounds": 1, "groups": 1}


def images(folder, names=NAMES):
    """A folder of two images of each class, scenes of its object."""
    for name in names:
        concept = name.replace("_", " ").split()[-1]
        source = open_source(f"scenes:number=1:objects={concept}:styles=seen:count=2")
        (folder / name).mkdir(parents=True)
        for index in range(2):
            source[index].images["main"].decode().save(folder / name / f"{index}.png")
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def found(tmp_path_factory, data):
    """The run of a short search on `tiny`."""
    folder = tmp_path_factory.mktemp("search")
    path = folder / "sentences.json"
    path.write_text(json.dumps(SENTENCES), encoding="utf-8")
    config = {**SHORT, "descriptions": str(path)}
    diptych.train("proapo", data, folder / "run", init="tiny", config=config, quiet=True)
    return folder / "run"


@pytest.fixture(scope="module")
def other(tmp_path_factory, data):
    """A model with other towers, another width and another tokenizer."""
    towers = {
        "image_tower": "vit:image_size=32:patch=16:width=32:depth=1",
        "text_tower": "text:width=32:depth=1",
        "tokenizer": "bpe:vocab_size=300:context=24",
        "embed_dim": 16,
    }
    scenes = "scenes:number=1:texts=caption:count=16"
    folder = tmp_path_factory.mktemp("other") / "run"
    return diptych.train("clip", scenes, folder, **towers, steps=1, batch_size=8, quiet=True).model


def pixels(data):
    return [sample.images["main"].decode() for sample in open_source(data)]


def by_prompts(model, found):
    sets = [read_prompts(found).for_classes(NAMES).of(name) for name in NAMES]
    return prompt_vectors(model, sets, batch_size=7, steps=Steps(None, 1))


def test_zero_shot_by_them_is_the_runs_own_classifier(data, found):
    tiny = diptych.load("tiny")
    own = diptych.load(found)
    own.set_classes(NAMES)
    scale = float(tiny.encoder.logit_scale().detach())
    logits = scale * tiny.embed_images(pixels(data)) @ by_prompts(tiny, found).T
    torch.testing.assert_close(logits, own.class_logits(pixels(data)), atol=1e-4, rtol=1e-5)
    for name in ("top1", "top5", "mean_per_class"):
        results = [
            diptych.evaluate("tiny", data, ["zeroshot"], prompts=found)["zeroshot"],
            diptych.evaluate(found, data, ["zeroshot"])["zeroshot"],
        ]
        assert results[0][name] == results[1][name]


def test_another_encoder_takes_them_and_they_are_in_the_protocol(data, found, other):
    source = open_source(data)
    by_run = evaluate(other, source, ["zeroshot"], prompts=str(found))["zeroshot"]
    by_templates = evaluate(other, source, ["zeroshot"])["zeroshot"]
    assert by_run["n"] == by_templates["n"] == 6
    assert by_run["protocol"] != by_templates["protocol"]
    assert by_run["options"] == [f"prompts={read_prompts(found).for_classes(NAMES).digest()}"]
    assert tuple(by_run["prompts"]) == read_prompts(found).templates
    expected = normalize(other.embed_texts(read_prompts(found).of("vell cat")).mean(0), dim=0)
    torch.testing.assert_close(by_prompts(other, found)[0], expected)


@pytest.fixture
def copied(found, tmp_path):
    """A copy of the search's run, which a test may remove."""
    return shutil.copytree(found, tmp_path / "found")


def test_votes_stand_beside_them_and_the_run_holds_them(data, found, copied, tmp_path):
    how = {"init": "tiny", "quiet": True, "epochs": 1, "batch_size": 4}
    config = {"prompts": str(copied)}
    diptych.train("tip_adapter", data, tmp_path / "tip", config=config, **how)
    diptych.train("tip_adapter", data, tmp_path / "plain", **how)
    shutil.rmtree(copied)
    model = diptych.load(tmp_path / "tip")
    classifier = model.classifier
    own = diptych.load(found)
    own.set_classes(classifier.classes)
    torch.testing.assert_close(classifier.text_features(), own.classifier.text_features())
    assert not torch.equal(
        classifier.text_features(), diptych.load(tmp_path / "plain").classifier.text_features()
    )
    classifier.alpha = 0.0
    torch.testing.assert_close(
        model.class_logits(pixels(data)), own.class_logits(pixels(data)), atol=1e-4, rtol=1e-5
    )
    assert read_prompts(tmp_path / "tip").for_classes(NAMES) == read_prompts(found).for_classes(
        NAMES
    )


def test_concepts_begin_as_them_with_the_lengths_of_names(data, copied, tmp_path):
    how = {"init": "tiny", "quiet": True, "steps": 1, "lr": 1e-12}
    diptych.train("cones", data, tmp_path / "a", config={"prompts": str(copied)}, **how)
    diptych.train("cones", data, tmp_path / "b", **how)
    expected = diptych.load(copied)
    shutil.rmtree(copied)
    model = diptych.load(tmp_path / "a")
    assert model.encoder.text is None
    expected.set_classes(model.classes)
    features = expected.classifier.text_features()
    torch.testing.assert_close(model.classifier.text_features(), features)
    rows = [diptych.load(tmp_path / run).classifier.bank.vectors for run in "ab"]
    torch.testing.assert_close(rows[0].norm(dim=1), rows[1].norm(dim=1))
    torch.testing.assert_close(
        model.class_logits(pixels(data)), expected.class_logits(pixels(data)), atol=1e-4, rtol=1e-5
    )


def test_other_classes_are_refused_with_both_names(data, found, tmp_path):
    fewer = images(tmp_path / "fewer", ("bus", "key"))
    said = "red_house, vell cat besides, and lack key; search for prompts"
    config = {"prompts": str(found)}
    for method in ("tip_adapter", "cones"):
        with pytest.raises(InputError, match=said):
            diptych.train(method, fewer, tmp_path / method, init="tiny", config=config)
    with pytest.raises(InputError, match=said):
        diptych.evaluate("tiny", fewer, ["zeroshot"], prompts=found)


def test_what_has_no_prompts_or_its_own_is_refused(data, found, other, tmp_path):
    with pytest.raises(InputError, match=r"is a run of clip and holds no prompts of classes"):
        diptych.evaluate("tiny", data, ["zeroshot"], prompts=other.name)
    with pytest.raises(InputError, match=r"has no model.json"):
        diptych.evaluate("tiny", data, ["zeroshot"], prompts=tmp_path)
    with pytest.raises(InputError, match="give one of the two"):
        diptych.evaluate("tiny", data, ["zeroshot"], prompts=found, templates=("a {}",))
    with pytest.raises(InputError, match="trained with prompts of its own"):
        diptych.evaluate(found, data, ["zeroshot"], prompts=found)
    with pytest.raises(InputError, match="set start=names"):
        Config(prompts=str(found), start="random")
    with pytest.raises(InputError, match="prompts is no option of the task detect"):
        Config(task="detect", prompts=str(found))
    description = json.loads((found / "model.json").read_text(encoding="utf-8"))
    (tmp_path / "model.json").write_text(json.dumps({**description, "weights": None}))
    with pytest.raises(InputError, match="unfinished run"):
        read_prompts(tmp_path)
