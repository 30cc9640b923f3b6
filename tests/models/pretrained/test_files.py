"""Files of weights that are damaged, of another kind, or hostile."""

import os
import pickle
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from diptych.errors import InputError
from diptych.methods.store import load
from diptych.models.pretrained.files import read_weights


class Hostile:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


# RELIABILITY 21
@pytest.mark.parametrize("form", ["zip", "old", "plain"])
def test_a_malicious_pickle_is_refused_and_leaves_no_side_effect(
    form: str, nano: Path, tmp_path: Path
):
    trace, path = tmp_path / "ran", tmp_path / "weights.pt"
    content = {"ln_final.weight": torch.zeros(2), "more": Hostile(trace)}
    if form == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(InputError, match=r"not opened: a pickle can run code") as error:
        load("openclip:nano", weights=path)
    assert "\n" not in str(error.value)
    assert not trace.exists()


def archive(path: Path, pickled: bytes) -> Path:
    """A TorchScript archive with another data.pkl."""
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path.with_suffix(".true"))
    with (
        zipfile.ZipFile(path.with_suffix(".true")) as true,
        zipfile.ZipFile(path, "w") as made,
    ):
        for name in true.namelist():
            made.writestr(name, pickled if name.endswith("/data.pkl") else true.read(name))
    return path


class OpenAILike(torch.nn.Module):
    """The tensors of a CLIP under OpenAI's names, with their three numbers."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        for name, module in model.named_children():
            self.add_module(name, module)
        for name, value in model.named_parameters(recurse=False):
            self.register_parameter(name, value)
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.logit_scale


def test_openais_torchscript_archives_are_read_without_their_program(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = nano / "nano-quickgelu" / "weights.pt"
    model = OpenAILike(open_clip.create_model("nano-quickgelu", pretrained=str(path))).eval()
    torch.jit.save(torch.jit.trace(model, torch.zeros(1)), tmp_path / "ViT.pt")
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the program was loaded"))
    found = read_weights(tmp_path / "ViT.pt")
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())
    ours = load("openclip:nano-quickgelu", weights=tmp_path / "ViT.pt")
    assert ours.identity == load("openclip:nano-quickgelu", weights=path).identity


def test_a_malicious_torchscript_archive_is_refused(tmp_path: Path):
    path = archive(tmp_path / "evil.pt", pickle.dumps(Hostile(tmp_path / "trace")))
    with pytest.raises(InputError, match="was not opened: a pickle can run code"):
        read_weights(path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("pickled", [b"", pickle.dumps({"a": 1}), pickle.dumps(3)])
def test_a_damaged_torchscript_archive_is_one_line(pickled: bytes, tmp_path: Path):
    with pytest.raises(InputError) as error:
        read_weights(archive(tmp_path / "cut.pt", pickled))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pt", b"", "not a readable state dict"),
        ("a.pt", b"PK\x03\x04 cut", "state dict|not opened"),
        ("a.bin", b"<html>404</html>", "state dict|not opened"),
        ("a.safetensors", b"junk", "not a readable safetensors"),
        ("a.npz", b"junk", "big_vision"),
    ],
)
def test_damaged_and_foreign_files_are_one_line_errors(
    name: str, content: bytes, message: str, tmp_path: Path
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_weights(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_cut_archive_is_an_error(tmp_path: Path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"b\.pt"):
        read_weights(tmp_path / "b.pt")


@pytest.mark.parametrize("content", [[torch.zeros(1)], {}, {"epoch": 3}, torch.zeros(2)])
def test_what_is_no_state_dict_is_refused(content: object, tmp_path: Path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        read_weights(tmp_path / "a.pt")


def test_missing_files_and_empty_folders_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="there are no weights at"):
        read_weights(tmp_path / "none.pt")
    with pytest.raises(InputError, match="holds no weights"):
        read_weights(tmp_path)


def test_an_index_cannot_reach_outside_its_folder(tmp_path: Path):
    save_file({"a": torch.zeros(1)}, tmp_path / "secret.safetensors")
    (tmp_path / "model").mkdir()
    index = '{"weight_map": {"a": "../secret.safetensors"}}'
    (tmp_path / "model" / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match="outside its folder"):
        read_weights(tmp_path / "model")


def test_an_unknown_prefix_is_named():
    from diptych.models import pretrained

    with pytest.raises(InputError, match="did you mean 'openclip'"):
        pretrained.load("opnclip:ViT-B-32")
