"""BioViL's published weights: folders of their layout with random numbers, against BERT of transformers and a ResNet of
torchvision, whose parts the published code has."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.factories import make_method
from tests.models.pretrained import tiny
from torch import nn
from torch.nn.functional import gelu, layer_norm, linear, normalize

import diptych
from diptych.cli import main
from diptych.errors import InputError
from diptych.methods.domain.biovil import BioViL
from diptych.methods.domain.biovil.model import ReportModel, ReportTextModel
from diptych.methods.make import Make

transformers = pytest.importorskip("transformers")
torchvision = pytest.importorskip("torchvision")
pytest.importorskip("timm")

D, E = 32, 16
IMAGE_FILE = "biovil_image_resnet18_proj_size_16.pt"


@pytest.fixture(scope="module")
def parts():
    """BERT with its head of masked words, a ResNet, and the two projections."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=15,
        hidden_size=D,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=24,
    )
    bert = tiny.stir(transformers.BertForMaskedLM(config))
    resnet = torchvision.models.resnet18()
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    projector = nn.Sequential(
        nn.Conv2d(512, E, 1, bias=False), nn.BatchNorm2d(E), nn.ReLU(), nn.Conv2d(E, E, 1)
    )
    projector[1].running_mean.normal_()
    head = {
        "dense_to_hidden.weight": torch.randn(E, D),
        "dense_to_hidden.bias": torch.randn(E),
        "LayerNorm.weight": torch.randn(E),
        "LayerNorm.bias": torch.randn(E),
        "dense_to_output.weight": torch.randn(E, E),
        "dense_to_output.bias": torch.randn(E),
    }
    return bert, head, resnet.eval(), projector.eval()


@pytest.fixture(scope="module")
def folder(parts, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("cxr-bert")
    bert, head, resnet, projector = parts
    tiny.bert_like(place)
    own = json.loads((place / "tokenizer_config.json").read_text())
    code = {"AutoTokenizer": ["configuration_cxrbert.CXRBertTokenizer", None]}
    own |= {"tokenizer_class": "CXRBertTokenizer", "auto_map": code}
    (place / "tokenizer_config.json").write_text(json.dumps(own))
    (place / "config.json").write_text(
        json.dumps(
            {
                **bert.config.to_diff_dict(),
                "architectures": ["CXRBertModel"],
                "auto_map": {"AutoModel": "modeling_cxrbert.CXRBertModel"},
                "model_type": "cxr-bert",
                "projection_size": E,
            }
        )
    )
    state = {
        **bert.state_dict(),
        "bert.embeddings.position_ids": torch.arange(24)[None],
        **{f"cls_projection_head.{name}": value for name, value in head.items()},
    }
    torch.save(state, place / "pytorch_model.bin")
    images = {f"encoder.encoder.{name}": value for name, value in resnet.state_dict().items()}
    images |= {f"projector.model.{name}": value for name, value in projector.state_dict().items()}
    torch.save(images, place / IMAGE_FILE)
    return place


@pytest.fixture(scope="module")
def model(folder) -> ReportModel:
    return diptych.load(f"biovil:{folder}")


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parity
def test_vectors_and_words_are_those_of_the_published_parts(parts, model):
    bert, head, resnet, projector = parts
    ids = torch.tensor([[2, 5, 4, 7, 8, 3], [2, 9, 10, 3, 0, 0]])
    lengths = torch.tensor([6, 4])
    real = torch.arange(6) < lengths[:, None]
    read = bert(input_ids=ids, attention_mask=real.long(), output_hidden_states=True)
    first = read.hidden_states[-1][:, 0]
    hidden = gelu(linear(first, head["dense_to_hidden.weight"], head["dense_to_hidden.bias"]))
    hidden = layer_norm(hidden, (E,), head["LayerNorm.weight"], head["LayerNorm.bias"], 1e-12)
    text = linear(hidden, head["dense_to_output.weight"], head["dense_to_output.bias"])
    close(model.encoder.embed_texts(ids, lengths), normalize(text, dim=-1))
    close(model.masked_logits(ids, lengths)[real], read.logits[real])

    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(pixels))))
    x = projector(resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(x)))))
    found = model.encoder.encode_image(pixels)
    close(model.encoder.project_image(found.patches), x.flatten(2).mT)
    close(model.encoder.image_vectors(found), x.mean((2, 3)))


def test_images_are_prepared_as_by_the_published_code(model):
    from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

    theirs = Compose([Resize(512), CenterCrop(480), ToTensor()])
    for image in tiny.images()[:2]:
        pixels = theirs(image.convert("L")).repeat(3, 1, 1)
        found = model.preprocess(image.convert("L")) / 255
        torch.testing.assert_close(found, pixels, atol=2 / 255, rtol=0)


def test_the_model_is_used_saved_and_trained_on(model, tmp_path):
    assert float(model.encoder.logit_scale()) == pytest.approx(2)
    assert [len(row) for row in model.fill("a [MASK] of two dogs", k=3)] == [1]
    image = tiny.images()[0]
    found = model.similarity_map(image, "two dogs")
    assert found.shape == image.size[::-1]
    model.save(tmp_path / "run")
    again = diptych.load(tmp_path / "run")
    assert torch.equal(again.embed_texts("two dogs"), model.embed_texts("two dogs"))
    assert torch.equal(again.embed_images([image]), model.embed_images([image]))
    made = make_method(BioViL, make=Make.of(again), projector="mlp:hidden=16", augment=None)
    assert torch.equal(made.model.words.bias, model.delivered.words.bias)
    projected = made.model.encoder.text_projection[3].weight
    assert torch.equal(projected, model.encoder.text_projection[3].weight)


def test_without_an_image_file_it_reads_texts_alone(folder, model, tmp_path, capsys):
    place = shutil.copytree(folder, tmp_path / "general")
    (place / IMAGE_FILE).unlink()
    texts = diptych.load(f"biovil:{place}")
    assert isinstance(texts, ReportTextModel)
    assert torch.equal(texts.embed_texts("two dogs"), model.embed_texts("two dogs"))
    assert main(["fill", f"biovil:{place}", "a [MASK] of two dogs"]) == 0
    assert "[MASK]" in capsys.readouterr().out


def test_folders_that_do_not_fit_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        diptych.load(f"biovil:{tmp_path / 'none'}")
    place = shutil.copytree(folder, tmp_path / "several")
    shutil.copy(place / IMAGE_FILE, place / "again.pt")
    with pytest.raises(InputError, match=r"2 files that end in \.pt"):
        diptych.load(f"biovil:{place}")
    (place / "again.pt").unlink()
    images = torch.load(place / IMAGE_FILE, weights_only=True)
    torch.save({**images, "encoder.backbone_to_vit.weight": torch.zeros(1)}, place / IMAGE_FILE)
    with pytest.raises(InputError, match="image model of BioViL-T"):
        diptych.load(f"biovil:{place}")
    torch.save({"encoder.encoder.conv1.weight": torch.zeros(1)}, place / IMAGE_FILE)
    with pytest.raises(InputError, match="no image model of BioViL"):
        diptych.load(f"biovil:{place}")
    del images["projector.model.3.bias"]
    torch.save(images, place / IMAGE_FILE)
    with pytest.raises(InputError, match=r"lacks what becomes our encoder.image_projection.3.bias"):
        diptych.load(f"biovil:{place}")
    state = torch.load(place / "pytorch_model.bin", weights_only=True)
    kept = {name: value for name, value in state.items() if "projection" not in name}
    torch.save(kept, place / "pytorch_model.bin")
    with pytest.raises(InputError, match="no CXR-BERT, which has a cls_projection_head"):
        diptych.load(f"biovil:{place}")
