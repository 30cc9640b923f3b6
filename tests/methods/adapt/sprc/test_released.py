"""BLIP-2's weights as a start of SPRC: folders that transformers writes, with random numbers, against its own
modules."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.factories import make_method
from tests.models.pretrained import tiny, tiny_families
from torch.nn.functional import normalize

import diptych
from diptych.cli import main
from diptych.errors import InputError
from diptych.methods.adapt.sprc import SPRC
from diptych.methods.make import Make

transformers = pytest.importorskip("transformers")

SIZES = {"width": 32, "depth": 2, "heads": 4, "queries": 5, "embed": 24}
TRIPLES = "scenes:count=8:objects=shapes:number=2-3:same=0:size=32:siblings=2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("blip")
    apart = {"initializer_range": 0.2}
    # the norm behind the image tower is SPRC's own, of torch's epsilon, as in the published code
    vision = {**tiny_families.VISION, **apart, "layer_norm_eps": 1e-5}
    words = {
        **tiny_families.WORDS,
        **apart,
        "vocab_size": 17,
        "intermediate_size": 128,
        "max_position_embeddings": 512,
    }
    config = transformers.Blip2Config(
        vision_config=vision,
        qformer_config={**words, "use_qformer_text_input": True, "encoder_hidden_size": 32},
        num_query_tokens=5,
        image_text_hidden_size=24,
    )
    torch.manual_seed(0)
    tiny.stir(transformers.Blip2ForImageTextRetrieval(config)).save_pretrained(place)
    tiny.bert_like(place)
    tiny_families.blip_images(place)
    return place


@pytest.fixture(scope="module")
def model(folder):
    return diptych.load(f"sprc:{folder}")


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.Blip2ForImageTextRetrieval.from_pretrained(folder).eval()


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parity
def test_tokens_are_those_of_transformers(model, theirs):
    composer = model.composer
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 9, 3, 0], [2, 6, 3, 0, 0]])
    lengths = torch.tensor([5, 4, 3])
    real = (torch.arange(5) < lengths[:, None]).long()

    seen = theirs.vision_model(pixel_values=pixels).last_hidden_state
    close(composer.look(pixels), seen)
    queries = theirs.query_tokens.expand(3, -1, -1)
    alone = theirs.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
    close(composer.qformer(memory=composer.look(pixels)).tokens, alone)
    close(
        composer.targets(composer.look(pixels)), normalize(theirs.vision_projection(alone), dim=-1)
    )

    read = theirs.qformer(
        query_embeds=theirs.embeddings(input_ids=ids), query_length=0, attention_mask=real
    ).last_hidden_state
    close(composer.qformer(ids, lengths).tokens[real.bool()], read[real.bool()])
    close(composer.query(None, ids, lengths), normalize(theirs.text_projection(read[:, 0]), dim=-1))

    both = theirs.qformer(
        query_embeds=theirs.embeddings(input_ids=ids, query_embeds=queries),
        query_length=5,
        attention_mask=torch.cat([torch.ones(3, 5, dtype=torch.long), real], 1),
        encoder_hidden_states=seen,
    ).last_hidden_state
    prompts = composer.joint(composer.look(pixels), ids, lengths)
    close(prompts, both[:, :5])
    assert (prompts[1:] - prompts[:1]).abs().amax((1, 2)).min() > 1e-2  # images and words matter
    assert composer.logit_scale().item() == pytest.approx(1 / 0.07)


def test_the_vocabulary_is_the_tokenizers(model, theirs):
    table = model.composer.qformer.table.weight
    assert len(table) == model.tokenizer.vocab_size < 17
    assert torch.equal(table, theirs.embeddings.word_embeddings.weight[: len(table)])


def test_it_composes_and_is_saved_and_continued(model, tmp_path):
    images = tiny.images()[:2]
    texts = ["a cat", "dogs"]
    model.save(tmp_path / "run")
    again = diptych.load(tmp_path / "run")
    assert torch.equal(again.compose(images, texts), model.compose(images, texts))
    assert torch.equal(again.index(images), model.index(images))
    assert again.embed_images(images).shape == (2, 32)
    assert not again.reads_texts
    with pytest.raises(InputError, match="no text tower: it embeds images alone"):
        again.embed_texts("a cat")
    made = make_method(SPRC, make=Make.of(again), **SIZES)
    assert torch.equal(made.model.qformer.queries, model.composer.qformer.queries)
    assert made.model.image.preprocess.resize == "shortest"  # as the published code prepares images
    with pytest.raises(InputError, match="give the options that it was trained with"):
        make_method(SPRC, make=Make.of(again), **{**SIZES, "queries": 4})


def test_training_starts_from_it_and_leaves_the_tower(folder, model, tmp_path, capsys):
    sizes = [f"--method.{name}={value}" for name, value in SIZES.items()]
    words = ["train", "sprc", "--init", f"sprc:{folder}", "--data", TRIPLES, "--out"]
    steps = ["--recipe.steps", "1", "--batch-size", "4", "--recipe.warmup", "0"]
    assert main([*words, str(tmp_path / "out"), *sizes, *steps]) == 0, capsys.readouterr().err
    trained = diptych.load(tmp_path / "out").composer
    start = model.composer
    assert torch.equal(trained.image.positions, start.image.positions)
    assert not torch.equal(trained.qformer.queries, start.qformer.queries)
    assert not torch.equal(trained.norm.weight, start.norm.weight)


def test_folders_that_do_not_fit_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    path = tmp_path / "other" / "config.json"
    values = json.loads(path.read_text())
    qformer = values["qformer_config"]
    path.write_text(json.dumps({**values, "qformer_config": {**qformer, "hidden_act": "relu"}}))
    with pytest.raises(InputError, match="a Q-Former with hidden_act=relu; supported is gelu"):
        diptych.load(f"sprc:{tmp_path / 'other'}")
    path.write_text(json.dumps(values | {"architectures": ["Blip2ForConditionalGeneration"]}))
    with pytest.raises(InputError, match="which has no contrastive pair"):
        diptych.load(f"sprc:{tmp_path / 'other'}")
    path.write_text(json.dumps(values))
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (tmp_path / "other" / name).unlink()
    with pytest.raises(InputError, match="has no tokenizer, and instructions are texts"):
        diptych.load(f"sprc:{tmp_path / 'other'}")
    with pytest.raises(InputError, match="there is no folder"):
        diptych.load(f"sprc:{tmp_path / 'none'}")
    text = tiny_families.write("siglip 2", tmp_path / "siglip")
    with pytest.raises(InputError, match="is no BLIP-2"):
        diptych.load(f"sprc:{text}")
