"""Precisions: close to float32, probed once, kept by machine and model, refused where they cannot
be had."""

import copy
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diptych.data.tokenizers import train_bpe
from diptych.errors import InputError
from diptych.models import int8, precision, probe
from diptych.models.model import Model
from diptych.models.precision import set_precision
from diptych.towers.build import image_tower, text_tower
from diptych.towers.dual import DualEncoder

TEXTS = [
    "a red cat",
    "two dogs on the green, green grass",
    "snow",
    "a small red cat and a large blue dog asleep",
]
TOKENIZER = train_bpe(TEXTS * 3, 300, 24)
PIXELS = torch.randint(
    0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)

needs_int8 = pytest.mark.xfail(
    not int8.available(), reason="no int8 products in this build of torch", strict=True
)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def make(image: str = "vit:image_size=32:patch=8:width=64:depth=2:pooling=map:cls=0") -> Model:
    torch.manual_seed(0)
    tower = image_tower(image)
    text = text_tower(
        "text:width=64:depth=2",
        vocab_size=TOKENIZER.vocab_size,
        context=TOKENIZER.context,
        pad=TOKENIZER.pad,
        eot=TOKENIZER.eot,
    )
    return Model(DualEncoder(tower, text, 16), TOKENIZER, tower.preprocess, name="toy")


def vectors(model: Model) -> torch.Tensor:
    return torch.cat([model.embed_images(PIXELS), model.embed_texts(TEXTS)])


@pytest.mark.parametrize("name", ["bfloat16", pytest.param("int8", marks=needs_int8)])
def test_close_to_float32_of_unit_norm_and_the_same_model(name: str):
    exact = make()
    other = set_precision(make(), name)
    found, expected = vectors(other), vectors(exact)
    assert not torch.equal(found, expected)  # it does compute otherwise
    assert float((found * expected).sum(-1).min()) > 0.995
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(found)), atol=1e-6, rtol=0)
    assert other.precision == name
    assert other.identity == exact.identity  # what it embeds can be searched with the float32 model
    assert torch.equal(other.encoder.logit_scale(), exact.encoder.logit_scale())
    floats = (PIXELS.float() / 255 - exact.encoder.image.mean) / exact.encoder.image.std
    close = torch.nn.functional.cosine_similarity(
        other.embed_images(floats), other.embed_images(PIXELS)
    )
    assert close.min() > 0.999


def test_float32_is_exact():
    plain = make()
    before = vectors(plain)
    torch.testing.assert_close(vectors(set_precision(plain, "float32")), before, atol=1e-6, rtol=0)


@needs_int8
def test_int8_product_is_the_quantised_one():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(48, 40), torch.randn(3, 5, 48)
    scale = layer.weight.abs().amax(1, keepdim=True) / 127
    weight = (layer.weight / scale).round() * scale
    low, high = float(x.min()), float(x.max())
    most = 127 if int8.saturates() else 255
    step = (high - low) / most
    zero = round(-low / step)
    slow = (((x / step).round() + zero).clamp(0, most) - zero) * step @ weight.T + layer.bias
    with torch.no_grad():
        torch.testing.assert_close(int8.Int8Linear([layer])(x), slow, atol=2e-2, rtol=0)
        joined = int8.Int8Linear([layer, torch.nn.Linear(48, 8, bias=False)])(x)
    assert joined.shape == (3, 5, 48)
    assert torch.backends.quantized.engine == _ENGINE


_ENGINE = torch.backends.quantized.engine


_OVERFLOW = """
import torch
from diptych.models.int8 import Int8Linear
torch.manual_seed(0)
layer, x = torch.nn.Linear(256, 64), torch.randn(32, 256)
with torch.no_grad():
    exact = layer(x)
    print(float((Int8Linear([layer])(x) - exact).norm() / exact.norm()))
"""


@needs_int8
def test_int8_does_not_overflow_on_processors_without_vnni():
    """oneDNN is told to take the products of such a processor. Overflow would cost a tenth, 7 bits
    cost .02."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", _OVERFLOW],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 0.03


@needs_int8
def test_int8_neither_trains_nor_moves():
    model = set_precision(make(), "int8")
    with pytest.raises(InputError, match="int8 has no gradients"):
        model.encoder.embed_images(PIXELS)
    with pytest.raises(InputError, match="int8, which runs on a CPU alone"):
        model.to("cuda")


def test_auto_takes_the_fastest_close_one_and_probes_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    seconds = {"float32": 3.0, "bfloat16": 2.0, "int8": 1.0}
    monkeypatch.setattr(probe, "seconds", lambda run: seconds[run.args[0].precision])
    monkeypatch.setattr(probe, "worst_cosine", lambda a, b: 0.998 if _is_int8() else 0.9991)
    monkeypatch.setattr(precision, "COSINE", 0.999)
    ran = []

    def convert(model: Model, name: str, real=precision._convert) -> Model:
        ran.append(name)
        return real(model, name)

    def _is_int8() -> bool:
        return ran[-1] == "int8"

    monkeypatch.setattr(precision, "_convert", convert)
    with caplog.at_level(logging.INFO, "diptych"):
        model = set_precision(make(), "auto")
    assert model.precision == "bfloat16"  # int8 would be faster, but is not close enough
    assert ran == ["bfloat16", "int8"]
    [line] = [record.getMessage() for record in caplog.records]
    assert "bfloat16: 1.5x at cosine 0.99910" in line
    assert float((vectors(model) * vectors(make())).sum(-1).min()) > 0.999
    ran.clear()
    assert set_precision(make(), "auto").precision == "bfloat16"
    assert ran == ["bfloat16"]  # as remembered
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        set_precision(make(), "auto")
    finally:
        torch.set_num_threads(threads)
    assert len(list(tmp_path.rglob("precision-*.json"))) == 2  # other threads, another answer


def test_auto_falls_back_to_float32_and_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(precision, "COSINE", 1.1)
    assert set_precision(make(), "auto").precision == "float32"
    [stored] = tmp_path.rglob("precision-*.json")
    assert json.loads(stored.read_text())["precision"] == "float32"
    stored.write_text("{")  # damaged: probed anew
    assert set_precision(make(), "auto").precision == "float32"
    assert json.loads(stored.read_text())["precision"] == "float32"


def test_auto_probes_towers_that_int8_does_not_know():
    model = Model(
        DualEncoder(make("conv:image_size=32").encoder.image, make().encoder.text, 16),
        None,
        make("conv:image_size=32").preprocess,
        name="conv",
    )
    model.encoder.text = copy.deepcopy(model.encoder.text)
    assert set_precision(model, "auto").precision in precision.PRECISIONS


def test_what_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="bfloat16"):
        set_precision(make(), "bfloat61")
    with pytest.raises(InputError, match="load it anew"):
        set_precision(set_precision(make(), "bfloat16"), "float32")
    monkeypatch.setattr(int8, "available", lambda: False)
    with pytest.raises(InputError, match="choose precision='bfloat16'"):
        set_precision(make(), "int8")
    assert set_precision(make(), "auto").precision in ("float32", "bfloat16")
