"""BLIP-2's contrastive pair: scores equal to transformers' through the full path, what works by
them, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.models.pretrained import tiny, tiny_families

import diptych
from diptych.cli import main
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.models.multivector import MultiVectorModel

TEXTS = ["a photo of a cat", "Two dogs, running", "a", "snow " * 90]
SCENES = "scenes:count=12:number=1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_families.write("blip-2", tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def model(folder: Path) -> MultiVectorModel:
    found = diptych.load(f"hf:{folder}")
    assert isinstance(found, MultiVectorModel)
    return found


@torch.no_grad()
def theirs(folder: Path, context: int) -> Any:
    """The outputs of transformers for the images and texts, from PIL and strings."""
    module: Any = transformers.Blip2ForImageTextRetrieval.from_pretrained(folder).eval()
    ids = transformers.AutoTokenizer.from_pretrained(folder)(
        TEXTS, truncation=True, max_length=context, padding="longest", return_tensors="pt"
    )
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    pixels = processor(tiny.images(), return_tensors="pt")["pixel_values"]
    return module(
        pixel_values=pixels, input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]
    )


@pytest.mark.parity
def test_scores_equal_transformers_from_images_and_strings(folder: Path, model: MultiVectorModel):
    assert model.tokenizer is not None
    wanted = theirs(folder, model.tokenizer.context)
    index = model.index(tiny.images())
    texts = model.embed_texts(TEXTS)
    how: dict[str, Any] = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(index, wanted.image_embeds, **how)
    torch.testing.assert_close(texts, wanted.text_embeds, **how)
    scores = model.similarity(index, texts)
    torch.testing.assert_close(scores, wanted.logits_per_image, **how)
    torch.testing.assert_close(model.match(tiny.images(), TEXTS), scores.diagonal(), **how)
    assert model.tokenizer.lost(TEXTS[-1]) > 0
    assert (index[1:] - index[0]).abs().amax((1, 2)).min() > 1e-3  # images differ
    assert (index[:, 1:] - index[:, :1]).abs().amax((0, 2)).min() > 1e-3  # and so do queries
    assert (scores[1:] - scores[0]).abs().amax(1).min() > 1e-3


def test_batches_and_preprocessed_pixels_change_nothing(model: MultiVectorModel):
    whole = model.index(tiny.images())
    pixels = torch.stack([model.preprocess(image) for image in tiny.images()])
    mean, std = (
        torch.tensor(each).view(3, 1, 1) for each in (model.preprocess.mean, model.preprocess.std)
    )
    for same in (
        model.index(tiny.images(), batch_size=3),
        model.index((pixels / 255 - mean) / std),
    ):
        torch.testing.assert_close(same, whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        model.embed_texts(TEXTS, batch_size=1), model.embed_texts(TEXTS), atol=1e-6, rtol=0
    )
    assert model.index([]).shape == (0, 5, 24)


def test_each_vector_of_a_clip_is_the_unit_mean_of_those_of_its_frames(model: MultiVectorModel):
    frames = torch.stack([model.preprocess(image) for image in tiny.images()[:2]])
    mean = model.index(frames).mean(0)
    [found] = model.index(frames[None])
    torch.testing.assert_close(found, mean / mean.norm(dim=1, keepdim=True))


def test_classes_are_scored_by_the_nearest_vector(model: MultiVectorModel):
    with pytest.raises(InputError, match="knows no classes"):
        model.class_logits(tiny.images())
    model.set_classes(["cat", "dog"], ["a photo of a {}", "{}"])
    vectors = model.embed_texts(["a photo of a cat", "cat", "a photo of a dog", "dog"])
    classes = torch.nn.functional.normalize(vectors.unflatten(0, (2, 2)).mean(1), dim=1)
    wanted = (model.index(tiny.images()) @ classes.T).amax(1)
    torch.testing.assert_close(model.class_logits(tiny.images()), wanted)


def test_it_is_evaluated_and_classifies(folder: Path, capsys: pytest.CaptureFixture[str]):
    found = diptych.evaluate(
        f"hf:{folder}", SCENES, ["retrieval", "zeroshot"], combine="max", draws=2
    )
    assert {"i2t_r1", "t2i_r1"} <= found["retrieval"].keys()
    assert {"top1", "drawn_top1"} <= found["zeroshot"].keys()
    pairs = diptych.evaluate(
        f"hf:{folder}", SCENES, ["composition"], negatives=["hypothesis"], by="match"
    )
    assert pairs["composition"]["pairs"] > 0
    words = ["classify", f"hf:{folder}", SCENES, "--names", "cat,dogs", "--json"]
    assert main(words) == 0
    assert '"cat"' in capsys.readouterr().out


def test_all_vectors_are_embedded_and_searched_by_words(
    folder: Path, model: MultiVectorModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    emb = str(tmp_path / "emb")
    assert main(["embed", f"hf:{folder}", "scenes:count=4", "--out", emb]) == 0
    assert "diptych serve" not in capsys.readouterr().out
    assert main(["search", emb, "a cat", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    scenes = open_source("scenes:count=4")
    pixels = [model.preprocess.read(scenes[at].images["main"], exact=False) for at in range(4)]
    index = model.index(torch.stack(pixels))
    scores = model.similarity(index, model.embed_texts(["a cat"]))[:, 0]
    expected = [float(scores[hit["position"]]) for hit in found]
    assert [hit["score"] for hit in found] == pytest.approx(expected, abs=1e-6)
    assert expected == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-6)
    assert main(["index", emb]) == 2
    assert "which `diptych search` alone compares" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "evaluate {} --data scenes:count=4 --suite gap",
            "gap needs a model with embed_images: {}",
        ),
        ("evaluate {} --data scenes:count=4 --suite composition --siblings scene", "--by match"),
        ("train clip --init {} --data scenes:count=8 --out {out}", "neither an image nor a text"),
        ("export {} --to hf --out {out}", "neither a dual encoder nor an encoder of texts"),
        ("info {} --precision int8", "unknown"),
    ],
)
def test_what_needs_one_vector_an_image_is_refused_in_one_line(
    words: str, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    spec = f"hf:{folder}"
    assert main(words.format(spec, out=tmp_path / "out").split()) == 2
    error = capsys.readouterr().err
    assert message.format(spec) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_folders_that_do_not_fit_are_one_line(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "other")
    path = tmp_path / "other" / "config.json"
    values = json.loads(path.read_text())
    writes = values | {"architectures": ["Blip2ForConditionalGeneration"]}
    path.write_text(json.dumps(writes))
    with pytest.raises(InputError, match="which has no contrastive pair; name a Blip2ForImageText"):
        diptych.load(f"hf:{tmp_path / 'other'}")
    path.write_text(json.dumps(values))
    tiny_families.xlmr_like(tmp_path / "other", 20)
    with pytest.raises(InputError, match="it has 15 words, its tokenizer"):
        diptych.load(f"hf:{tmp_path / 'other'}")
    larger = {**values, "vision_config": {**values["vision_config"], "image_size": 64}}
    path.write_text(json.dumps(larger))
    with pytest.raises(InputError, match="its preprocessor makes images of 32 pixels"):
        diptych.load(f"hf:{tmp_path / 'other'}")
