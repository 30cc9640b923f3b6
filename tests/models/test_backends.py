"""Backends: as close to torch as they promise, converted once, chosen by a probe, refused in a line."""

import errno
import json
import logging
import shutil

import pytest
import torch

import diptych
from diptych.data.tokenizers import train_bpe
from diptych.errors import InputError
from diptych.methods import store
from diptych.models import backends, probe
from diptych.models.backends import set_backend
from diptych.models.model import Model
from diptych.towers.build import image_tower, text_tower
from diptych.towers.dual import DualEncoder

TEXTS = ["a red cat", "two dogs on the green, green grass", "snow", "a " * 40]
TOKENIZER = train_bpe(TEXTS * 3, 300, 24)
PIXELS = torch.randint(
    0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def make(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    tower = image_tower("vit:image_size=16:patch=8:width=32:depth=1")
    text = text_tower(
        "text:width=32:depth=1",
        vocab_size=TOKENIZER.vocab_size,
        context=TOKENIZER.context,
        pad=TOKENIZER.pad,
        eot=TOKENIZER.eot,
    )
    return Model(DualEncoder(tower, text, 16), TOKENIZER, tower.preprocess, name="toy")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A cache with the graphs of `make()`."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place))
        set_backend(make(), "onnxruntime", "float32")
    return place


@pytest.fixture
def cached(converted, tmp_path, monkeypatch):
    """A copy of that cache."""
    shutil.copytree(converted, tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for choice in tmp_path.rglob("backend-*.json"):
        choice.unlink()
    return next(tmp_path.rglob("graphs-*"))


@pytest.fixture
def no_export(monkeypatch):
    def write_graph(*args):
        raise AssertionError("a graph was written anew")

    monkeypatch.setattr(backends.export, "write_graph", write_graph)


@pytest.mark.usefixtures("cached", "no_export")
@pytest.mark.parametrize("backend", list(backends.LIBRARIES))
def test_float32_is_torchs_for_batches_and_texts_of_all_sizes(backend):
    exact, model = make(), set_backend(make(), backend, "float32")
    assert model.computed_by == f"float32 by {backend}"
    assert model.identity == exact.identity
    for count in (1, 5):
        found = model.embed_images(PIXELS[:count]), model.embed_texts(TEXTS[:count])
        expected = exact.embed_images(PIXELS[:count]), exact.embed_texts(TEXTS[:count])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert model.embed_texts([]).shape == (0, 16)


@pytest.mark.usefixtures("cached", "no_export")
def test_bfloat16_is_close():
    exact, model = make(), set_backend(make(), "openvino", "bfloat16")
    cosines = torch.nn.functional.cosine_similarity
    assert cosines(model.embed_images(PIXELS), exact.embed_images(PIXELS)).min() > 0.999
    assert model.embed_texts(TEXTS).dtype == torch.float32


@pytest.mark.usefixtures("cached", "no_export")
def test_preprocessed_pixels_are_computed_by_torch():
    exact, model = make(), set_backend(make(), "onnxruntime", "float32")
    floats = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.embed_images(floats), exact.embed_images(floats))


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize("fast", ["torch", "openvino", "onnxruntime"])
def test_auto_takes_the_fastest_of_each_tower_and_remembers(cached, monkeypatch, fast):
    def seconds(run):
        graphs = run.args[0].graphs
        if "text" in graphs:  # texts: always by OpenVINO
            return 1.0 if graphs["text"].by == "openvino" else 2.0
        by = graphs["image"].by if graphs else "torch"
        return 1.0 if by == fast else 3.0

    monkeypatch.setattr(probe, "seconds", seconds)
    model = set_backend(make(), "auto", "float32")
    by = {side: graph.by for side, graph in model.graphs.items()}
    assert by == {"text": "openvino", **({} if fast == "torch" else {"image": fast})}

    def fail(*args):
        raise AssertionError("probed again")

    monkeypatch.setattr(probe, "runs", fail)
    again = set_backend(make(), "auto", "float32")
    assert again.computed_by == model.computed_by
    assert len(list(cached.parent.glob("backend-*.json"))) == 1


@pytest.mark.usefixtures("cached", "no_export")
def test_what_differs_from_torch_stays_with_it(monkeypatch, caplog):
    def wrong(path, precision):
        run = real(path, precision)
        return lambda *batch: run(*batch).flip(0) if len(batch) == 1 else run(*batch)

    real = backends.LIBRARIES["onnxruntime"].compile
    library = backends._Library(wrong, ("float32",), "export")
    monkeypatch.setattr(backends, "LIBRARIES", {"onnxruntime": library})
    for _ in range(2):  # as probed, and as remembered
        caplog.clear()
        model = set_backend(make(), "onnxruntime", "float32")
        assert model.computed_by == "images in float32, texts in float32 by onnxruntime"
        [line] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert "the image tower stays with torch: embeddings by onnxruntime in float32" in line


def test_a_tower_that_cannot_be_converted_stays_with_torch(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def write_graph(model, side, path):
        raise InputError(f"torch cannot export {side}")

    monkeypatch.setattr(backends.export, "write_graph", write_graph)
    model = set_backend(make(), "openvino", "bfloat16")
    assert model.computed_by == model.precision == "bfloat16"
    assert "the text tower stays with torch: torch cannot export text" in caplog.text
    [note] = tmp_path.rglob("graphs.json")
    assert set(json.loads(note.read_text())["lacks"]) == {"image", "text"}


@pytest.mark.parametrize("damage", ["cut", "other", "no note"])
def test_graphs_that_are_damaged_or_of_other_weights_are_refused(cached, tmp_path, damage):
    if damage == "cut":
        path = cached / "image.onnx"
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "no note":
        (cached / "graphs.json").unlink()
    else:
        note = json.loads((cached / "graphs.json").read_text())
        note["identity"] = make(1).identity
        (cached / "graphs.json").write_text(json.dumps(note))
    with pytest.raises(InputError, match="does not hold the graphs that were written for toy"):
        set_backend(make(), "openvino", "float32")
    assert cached.exists()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    model = set_backend(make(), "onnxruntime", "float32")
    torch.testing.assert_close(
        model.embed_images(PIXELS), make().embed_images(PIXELS), atol=1e-5, rtol=0
    )


def test_a_full_disk_is_no_reason_that_lasts(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def write_graph(model, side, path):
        raise InputError("torch cannot export it") from OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(backends.export, "write_graph", write_graph)
    with pytest.raises(InputError, match="no space left to write the graphs of toy"):
        set_backend(make(), "openvino", "float32")
    assert not list(tmp_path.rglob("*graphs*"))


def test_a_gpu_computes_by_torch(monkeypatch):
    def find(name, precision):
        return torch.device("meta" if name == "auto" else name)

    monkeypatch.setattr(store, "find_device", find)
    model = store.load("tiny", device="auto", backend="auto")
    assert (model.device.type, model.computed_by) == ("meta", "float32")
    with pytest.raises(InputError, match="is on meta, and openvino computes on the processor"):
        store.load("tiny", device="meta", backend="openvino")


def test_what_cannot_be_had_is_refused(monkeypatch):
    with pytest.raises(InputError, match="did you mean 'openvino'"):
        set_backend(make(), "openvin", "float32")
    with pytest.raises(InputError, match="onnxruntime does not compute in bfloat16"):
        set_backend(make(), "onnxruntime", "bfloat16")
    with pytest.raises(InputError, match="computes by torch alone"):
        set_backend(diptych.load("tiny-lm"), "openvino", "float32")
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "openvino" else 1)
    with pytest.raises(InputError, match=r"needs openvino; pip install 'diptych\[fast\]'"):
        diptych.load("tiny", backend="openvino")
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert set_backend(make(), "auto", "float32").graphs == {}


@pytest.mark.usefixtures("cached", "no_export")
def test_a_model_by_another_library_is_not_changed_under_it():
    model = set_backend(make(), "onnxruntime", "float32")
    for change in (lambda: model.to("cuda"), lambda: model.set_share(0.3)):
        with pytest.raises(InputError, match="toy is in float32 by onnxruntime"):
            change()
