"""Files of weights that are damaged, of another kind, or hostile."""

import os
import pickle
from pathlib import Path

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


def test_a_torchscript_archive_is_refused_by_name(nano: Path, tmp_path: Path):
    torch.jit.save(
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "ViT-B-32.pt"
    )
    with pytest.raises(InputError, match=r"TorchScript.*quickgelu/openai"):
        load("openclip:nano", weights=tmp_path / "ViT-B-32.pt")


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
