"""Bad input gets one line on stderr and exit code 2, with the thing, the place and the remedy."""

import errno
import json
import os
import signal
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.cli.helpers import (
    TINY,
    add_member,
    caption,
    encoded,
    image,
    make_folder,
    make_table,
    make_tar,
)

from diptych.training import tracking


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture
def run(tmp_path, photos, train) -> Path:
    assert train(photos, tmp_path / "run").code == 0
    return tmp_path / "run"


def has(message: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in message, f"{part!r} is not in {message!r}"


# ---- words


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trian"], ["command 'trian'", "did you mean 'train'"]),
        (["--versoin"], ["'--versoin'", "did you mean '--version'"]),
        (
            ["train", "clpi", "--data", "glyphs", "--out", "x"],
            ["method 'clpi'", "did you mean 'clip'"],
        ),
        (["train", "--help-me"], ["option of diptych train '--help-me'", "did you mean '--help'"]),
        (
            ["train", "clip", "--stesp", "3"],
            ["option of diptych train '--stesp'", "did you mean '--steps'"],
        ),
        (
            ["train", "clip", "--method.scal", "3"],
            ["'--method.scal'", "did you mean '--method.scale'"],
        ),
        (
            ["train", "clip", "--recipe.warmpu=3"],
            ["'--recipe.warmpu'", "did you mean '--recipe.warmup'"],
        ),
        (["train", "clip", "--steps", "many"], ["diptych train --steps 'many'", "a whole number"]),
        (["train", "clip", "--lr"], ["--lr has no value", "a number"]),
        (
            ["train", "clip", "--precision", "bfloat61"],
            ["--precision 'bfloat61'", "did you mean 'bfloat16'"],
        ),
        (
            ["train", "clip", "--tracker", "tensorbord"],
            ["--tracker 'tensorbord'", "did you mean 'tensorboard'"],
        ),
        (
            ["embed", "x", "y", "--out", "z", "--precision", "int9"],
            ["--precision 'int9'", "did you mean 'int8'"],
        ),
        (
            ["evaluate", "x", "--precision", "float23"],
            ["--precision 'float23'", "did you mean 'float32'"],
        ),
        (
            ["search", "e", "cat", "--precision", "bfloat61"],
            ["--precision 'bfloat61'", "did you mean 'bfloat16'"],
        ),
        (["train", "clip", "--method.scale", "big"], ["--method.scale 'big'", "a number"]),
        (["train", "clip", "--recipe.betas", "[1]"], ["--recipe.betas", "[a number, a number]"]),
        (["train", "clip", "--data", "a.tar", "b.tar", "--out", "x"], ["'b.tar'", "quotes"]),
        (["train", "--data", "glyphs", "--out", "x"], ["no method", "diptych list"]),
        (["train", "clip", "--data", "glyphs"], ["no place to write", "--out"]),
        (["train", "clip", "--out", "x"], ["no data", "--data"]),
        (
            ["train", "clip", "--data", "web=", "--out", "x"],
            ["names no source", "--data web=SOURCE"],
        ),
        (["train", "clip", "--config", "no.yaml"], ["--config no.yaml", "no such file"]),
        (
            ["train", "clip", "--data", "glyphs", "--out", "x", "--preset", "smal"],
            ["preset of CLIP 'smal'", "'small'"],
        ),
        (
            ["train", "clip", "--data", "glyphs", "--out", "x", "--lr", "-1"],
            ["'lr' of recipe is -1.0", "above 0"],
        ),
        (["list", "tower"], ["list 'tower'", "'towers'"]),
        (["evaluate"], ["no model", "RUN"]),
        (["evaluate", "x"], ["no data", "--data"]),
        (["evaluate", "nowhere", "--data", "glyphs"], ["no model at 'nowhere'", "RUN"]),
        (["embed", "x"], ["no source", "SOURCE --out EMB"]),
        (["search"], ["no folder", "diptych embed"]),
        (["search", "emb"], ["nothing to look for", "--image"]),
        (["search", "nowhere", "cat"], ["nowhere", "diptych embed"]),
        (["search", "e", "cat", "-k", "few"], ["-k 'few'", "a whole number"]),
        (["info"], ["no model", "RUN"]),
        (["check"], ["no data", "photos/"]),
        (["demo", "--seed", "x"], ["--seed 'x'", "a whole number"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_words_that_do_not_fit_are_told_with_the_nearest(
    refused, monkeypatch, tmp_path, words, parts
):
    monkeypatch.chdir(tmp_path)
    has(refused(*words), *parts)


def test_a_tracker_that_is_not_installed_is_told_before_any_work(
    refused_training, photos, tmp_path, monkeypatch
):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    has(
        refused_training(photos, tmp_path / "run", "--tracker", "wandb"),
        "not installed",
        "pip install 'diptych[wandb]'",
    )
    assert not (tmp_path / "run").exists()


def test_unknown_names_inside_a_run_are_told_with_the_nearest(refused_training, photos, tmp_path):
    out = tmp_path / "run"
    has(refused_training(photos, out, "--image-tower", "vti"), "image tower 'vti'", "'vit'")
    has(
        refused_training(photos, out, "--image-tower", "vit:widht=32"),
        "tower 'vit'",
        "'widht'",
        "'width'",
    )
    has(refused_training(photos, out, "--text-tower", "txet"), "text tower 'txet'", "'text'")
    has(refused_training(photos, out, "--tokenizer", "bpee"), "tokenizer 'bpee'", "'bpe'")
    has(refused_training(photos, out, "--optimizer", "adamww"), "optimizer 'adamww'", "'adamw'")
    has(refused_training(f"{photos}:txt=a", out), "'txt'", "'text'")


def test_a_config_file_is_told_where_it_is_wrong(refused, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("method: clip\nrecipe: {warmpu: 3}\n")
    has(refused("train", "--config", path), path, "'recipe.warmpu'", "'recipe.warmup'")
    path.write_text("method: clip\ndata: 3\n")
    has(refused("train", "--config", path), path, "data", "a mapping of streams")
    path.write_text("method: [\n")
    has(refused("train", "--config", path), path, "not YAML")
    path.write_text("- clip\n")
    has(refused("train", "--config", path), path, "write lines such as")


def test_unknown_suite_and_label_are_told_with_the_nearest(refused, run, photos):
    has(
        refused("evaluate", run, "--data", photos, "--suite", "retreival"),
        "suite 'retreival'",
        "'retrieval'",
    )
    has(
        refused("evaluate", run, "--data", photos, "--suite", "zeroshot"),
        "zeroshot",
        "labels",
        photos,
    )
    has(
        refused("evaluate", run, "--data", photos, "--batch-size", "0"),
        "--batch-size is 0",
        "at least 1",
    )


# ---- data


def test_missing_and_empty_data(refused_training, tmp_path, monkeypatch):
    out = tmp_path / "run"
    has(
        refused_training(tmp_path / "nowhere" / "pairs.csv", out),
        "nowhere/pairs.csv",
        "no such file",
        "check the path",
    )
    has(refused_training("", out), "names no source", "--data SOURCE")
    (tmp_path / "empty").mkdir()
    has(refused_training(tmp_path / "empty", out), "empty", "no images", ".jpg")
    (tmp_path / "empty.csv").write_text("image,caption\n")
    has(refused_training(tmp_path / "empty.csv", out), "empty.csv", "no rows", "it needs")
    (tmp_path / "empty.tar").write_bytes(b"")
    has(refused_training(tmp_path / "empty.tar", out), "empty.tar", "no samples", "give shards")
    has(
        refused_training(str(tmp_path / "s" / "{00..03}.tar"), out),
        "00.tar",
        "no such file",
        "range in braces",
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holiday").mkdir()
    has(refused_training("holidays", out), "source 'holidays'", "did you mean 'holiday'")


def test_a_tar_cut_short(refused, refused_training, tmp_path):
    shard = make_tar(tmp_path / "web.tar")
    shard.write_bytes(shard.read_bytes()[: -shard.stat().st_size // 3])
    has(refused_training(shard, tmp_path / "run"), "truncated", shard, "diptych check", "--max-bad")
    (tmp_path / "page.tar").write_bytes(b"<html>not found</html>" + bytes(2000))
    has(
        refused("check", tmp_path / "page.tar"),
        "page.tar",
        "not a tar file",
        "check where it came from",
    )


def test_captions_without_images(refused_training, tmp_path):
    out = tmp_path / "run"
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(12):
        (texts / f"{number}.txt").write_text(caption(number))
    has(refused_training(texts, out), texts, "12 texts and no image", "beside its text")
    (tmp_path / "texts.csv").write_text(
        "caption\n" + "\n".join(f"thing {number}" for number in range(12))
    )
    has(
        refused_training(tmp_path / "texts.csv", out),
        "texts.csv",
        "images.main",
        "CLIP",
        "name a source",
    )
    table = make_table(tmp_path / "table", 12)
    for path in table.parent.glob("*.jpg"):
        path.unlink()
    has(refused_training(table, out), "missing", "diptych check")


def test_a_field_that_is_lacking(refused, refused_training, run, tmp_path):
    bare = make_folder(tmp_path / "bare", texts=False)
    has(refused_training(bare, tmp_path / "other"), bare, "texts.caption", "CLIP", "name a source")
    has(refused("evaluate", run, "--data", bare), bare, "texts", "retrieval")
    table = make_table(tmp_path / "table")
    has(
        refused_training(f"{table}:text=captoin", tmp_path / "other"),
        "column",
        "'captoin'",
        "'caption'",
    )
    has(
        refused_training(table, tmp_path / "other", "--method.distinct", "colour"),
        table,
        "labels.colour",
        "another of its labels: label",
    )


def test_a_batch_larger_than_the_data_and_the_same_folder_again(
    refused_training, train, photos, tmp_path
):
    message = refused_training(photos, tmp_path / "run", "--batch-size", "64")
    has(message, "64", "16 samples", photos, "lower --batch-size")
    assert (
        train(photos, tmp_path / "run").code == 0
    )  # what never took a step does not stand in the way


def test_a_folder_that_holds_something_else(refused_training, run, photos, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    has(refused_training(photos, tmp_path / "full"), tmp_path / "full", "not empty", "--out")
    has(refused_training(photos, photos / "00.png"), "00.png is a file", "--out")
    message = refused_training_of_a_run(refused_training, photos, run)
    has(message, run, "already holds a run", "--resume")


def refused_training_of_a_run(refused_training, photos, run) -> str:
    description = run / "model.json"
    aside = description.rename(run.parent / "model.json")
    message = refused_training(photos, run)
    aside.rename(description)
    return message


def test_resume_on_another_config(refused, run, photos):
    base = ["train", "clip", "--data", photos, *TINY, "--out", run, "--resume"]
    message = refused(*base, "--lr", "0.5", "--seed", "3")
    has(message, run, "recipe.lr was 0.002, is now 0.5", "seed was 0, is now 3", "another --out")
    has(refused("train", "--resume", "--out", run.parent / "none"), "none", "without --resume")


# ---- models


def test_a_checkpoint_of_another_kind(refused, run, photos, tmp_path):
    def evaluated(model: object) -> str:
        return refused("evaluate", model, "--data", photos)

    has(evaluated(photos), photos, "no model.json", "RUN")
    has(evaluated(run / "model.safetensors"), "no model at", "RUN folder")
    description = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps({**description, "format": "other/9"}))
    has(evaluated(run), "model.json", "'other/9'", "this version reads")
    (run / "model.json").write_text("{")
    has(evaluated(run), "model.json is damaged", "resume the run")
    (run / "model.json").write_text(json.dumps(description))
    save_file({"other": torch.zeros(2)}, run / "model.safetensors")
    has(evaluated(run), "model.safetensors", "checksum differs", "copy both again")
    (run / "model.json").unlink()
    has(refused("info", run), run, "not finished", "diptych train --resume --out")


def test_embeddings_of_another_model_and_damaged_ones(
    refused, diptych, train, run, photos, tmp_path
):
    emb = tmp_path / "emb"
    assert diptych("embed", run, photos, "--out", emb).code == 0
    assert train(photos, tmp_path / "other", "--seed", "1").code == 0
    has(
        refused("search", emb, "red", "--model", tmp_path / "other"),
        emb,
        "was embedded with",
        "embed again",
    )
    has(refused("embed", run, photos, "--out", emb), emb, "exists", "--out")
    has(refused("search", emb, "red", "-k", "0"), "k is 0", "at least 1")
    has(refused("search", emb, " "), "empty", "give some words")
    vectors = emb / "img_emb" / "img_emb_0.npy"
    vectors.write_bytes(vectors.read_bytes()[:-100])
    has(refused("search", emb, "red"), "img_emb_0.npy", "diptych embed")


class Payload:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_malicious_pt_is_refused_and_runs_nothing(refused, photos, tmp_path):
    """RELIABILITY 21."""
    torch.save({"weight": Payload(tmp_path / "pwned")}, tmp_path / "evil.pt")
    message = refused(
        "evaluate", "openclip:ViT-B-32", "--weights", tmp_path / "evil.pt", "--data", photos
    )
    has(message, tmp_path / "evil.pt", "can run code", "safetensors")
    assert not (tmp_path / "pwned").exists()
    has(refused("evaluate", tmp_path / "evil.pt", "--data", photos), "evil.pt", "name a RUN folder")


# ---- images and texts


def bomb() -> bytes:
    """A PNG whose header promises 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("bomb.png", bomb(), "bomb"),
        ("page.jpg", b"<html><body>404</body></html>", "html"),
        ("cut.jpg", encoded(image(1), "JPEG")[:-400], "truncated"),
        ("nothing.jpg", b"", "zero-byte"),
    ],
    ids=["bomb", "html", "truncated", "zero-byte"],
)
def test_damaged_images_are_counted_and_many_stop_the_run(
    refused_training, train, diptych, tmp_path, name, data, reason
):
    folder = make_folder(tmp_path / "photos", extra={name: data})
    has(
        refused_training(folder, tmp_path / "run", "--steps", "9"),
        f"1 {reason}",
        name,
        "--max-bad",
        "diptych check",
    )
    tolerant = train(
        folder, tmp_path / "tolerant", "--max-bad", "0.1", "--epochs", "2", "--steps", "4"
    )
    assert tolerant.code == 0, tolerant
    assert f"1 {reason}" in tolerant.err
    assert json.loads(diptych("check", folder, "--json").out)["damage"] == {reason: 1}


def test_a_bomb_is_refused_as_a_query(refused, diptych, run, photos, tmp_path):
    """RELIABILITY 15."""
    assert diptych("embed", run, photos, "--out", tmp_path / "emb").code == 0
    (tmp_path / "bomb.png").write_bytes(bomb())
    has(
        refused("search", tmp_path / "emb", "--image", tmp_path / "bomb.png"),
        "bomb.png",
        "bomb",
        "give a JPEG",
    )
    has(
        refused("search", tmp_path / "emb", "--image", tmp_path / "no.png"), "no.png", "give a JPEG"
    )


def test_unusual_images_are_read(train, diptych, tmp_path):
    """CMYK, EXIF-rotated, animated and 16-bit files are no damage."""
    deep = Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [image(number).convert("P") for number in range(3)]
    extra = {
        "cmyk.jpg": encoded(image(1, "CMYK"), "JPEG"),
        "turned.jpg": encoded(image(2), "JPEG", exif=exif),
        "moving.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "moving.webp": encoded(image(4), "WEBP", save_all=True, append_images=[image(5)]),
        "deep.png": encoded(deep),
    }
    folder = make_folder(tmp_path / "photos", extra=extra)
    called = train(folder, tmp_path / "run", "--max-bad", "0", "--steps", "6")
    assert called.code == 0, called
    report = json.loads(diptych("check", folder, "--json").out)
    assert (report["samples"], report["damage"]) == (21, {})


def test_text_that_is_not_utf8(refused_training, diptych, tmp_path):
    folder = make_folder(tmp_path / "photos")
    (folder / "03.txt").write_bytes("Käse".encode("latin-1"))
    has(
        refused_training(folder, tmp_path / "run", "--steps", "9"),
        "1 utf8",
        "03.png",
        "diptych check",
    )
    assert json.loads(diptych("check", folder, "--json").out)["damage"] == {"utf8": 1}
    table = make_table(tmp_path / "table")
    table.write_bytes(table.read_text().replace("file,", "Käse,").encode("latin-1"))
    has(
        refused_training(table, tmp_path / "run"),
        "pairs.csv",
        "not UTF-8",
        "save the table as UTF-8",
    )


@pytest.mark.parametrize(
    "words",
    [
        ("classify", "tiny", "{photos}", "--names", "{latin}"),
        ("visual", "tiny", "{latin}", "--words"),
        ("data", "rewrite", "{photos}", "--gallery", "{latin}", "--model", "tiny", "--out", "x.jsonl"),
    ],
)  # fmt: skip
def test_files_of_names_and_texts_that_are_not_utf8(words, refused, photos, tmp_path):
    latin = tmp_path / "latin.txt"
    latin.write_bytes("dog\ncafé\n".encode("latin-1"))
    told = refused(*(word.format(photos=photos, latin=latin) for word in words))
    has(told, "latin.txt: line 2 is not UTF-8", "save the file as UTF-8")


@pytest.mark.parametrize(
    ("name", "kind", "parts"),
    [
        ("../../etc/cron.d/x.txt", None, ["points outside", "repack"]),
        ("/etc/passwd.txt", None, ["points outside", "repack"]),
        ("00.seg.png", tarfile.SYMTYPE, ["a link", "repack"]),
        ("00.pkl", None, ["a pickle", "store JSON"]),
    ],
)
def test_unsafe_members_of_a_tar(refused_training, tmp_path, name, kind, parts):
    """RELIABILITY 19."""
    shard = make_tar(tmp_path / "web.tar")
    with tarfile.open(shard, "a") as tar:
        if kind is None:
            add_member(tar, name, b"x")
        else:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    has(refused_training(shard, tmp_path / "run"), "web.tar", repr(name), *parts)


@pytest.mark.timeout(60)
def test_fewer_shards_than_workers_is_no_trouble(train, tmp_path):
    """RELIABILITY 16."""
    called = train(make_tar(tmp_path / "only.tar"), tmp_path / "run", "--workers", "3")
    assert called.code == 0, called


# ---- the disk


def full_disk(*_: object, **__: object):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "where",
    [
        "diptych.training.state.save_file",
        "diptych.models.saved.save_file",
        "diptych.training.log.Log.write",
        "diptych.training.config.yaml.safe_dump",
    ],
)
def test_a_full_disk_leaves_nothing_half_written(
    refused_training, train, photos, tmp_path, monkeypatch, where
):
    with monkeypatch.context() as patch:
        patch.setattr(where, full_disk)
        has(
            refused_training(photos, tmp_path / "run", "--save-every", "1"),
            "no space left",
            "make room",
        )
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    again = ["--resume"] if (tmp_path / "run" / "metrics.jsonl").exists() else []
    assert train(photos, tmp_path / "run", "--save-every", "1", *again).code == 0


def test_a_full_disk_leaves_nothing_half_written_by_embed(
    refused, run, photos, tmp_path, monkeypatch
):
    monkeypatch.setattr("diptych.embeddings.writer._Npy.append", full_disk)
    has(
        refused("embed", run, photos, "--out", tmp_path / "emb"),
        "no space left",
        tmp_path / "emb",
        "make room",
    )
    assert not [path for path in tmp_path.iterdir() if "emb" in path.name]


def test_a_folder_that_may_not_be_written_to(refused_training, photos, tmp_path, monkeypatch):
    def mkdir(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    has(
        refused_training(photos, tmp_path / "run"),
        tmp_path / "run",
        "Permission denied",
        "check the path",
    )


@pytest.mark.parametrize(
    "words",
    [
        ("data", "make", "scenes"),
        ("data", "show", "scenes"),
        ("data", "filter", "{photos}"),
        ("export", "tiny", "--to", "hf"),
        ("segment", "tiny", "{photos}", "--names", "a,b"),
    ],
)
def test_a_place_below_a_file_is_refused(words, refused, photos, tmp_path):
    (tmp_path / "a.csv").write_text("x")
    told = refused(*(word.format(photos=photos) for word in words), "--out", tmp_path / "a.csv/x")
    has(told, "a.csv/x is below ", "a.csv, which is a file; name another path")


@pytest.mark.parametrize(
    "words",
    [
        ("data", "filter", "{photos}", "--out", "{place}/d.npz"),
        ("generate", "tiny-lm", "--data", "{photos}", "--out", "{place}/d.jsonl"),
        ("ground", "tiny", "{photos}/00.png", "a dog", "--out", "{place}/d.png"),
        ("data", "describe", "{photos}", "--by", "templates", "--out", "{place}/d.json"),
    ],
)
def test_a_folder_where_a_file_is_written_is_refused(words, refused, photos, tmp_path):
    (tmp_path / words[-1].rpartition("/")[2]).mkdir()
    told = refused(*(word.format(photos=photos, place=tmp_path) for word in words))
    has(told, words[-1].rpartition("/")[2], "is a folder, where a file is written; name a file")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST])
def test_paths_that_cannot_be_opened_or_made_are_told(number, monkeypatch, refused, tmp_path):
    def mkdir(self, *_, **__):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    told = refused("data", "make", "scenes", "--count", "1", "--out", tmp_path / "x")
    has(told, "cannot open or make", tmp_path / "x", "check the path")


def test_a_defect_of_ours_keeps_its_traceback(train, photos, tmp_path, monkeypatch):
    def broken(*_: object, **__: object):
        raise RuntimeError("our fault")

    monkeypatch.setattr("diptych.training.engine.optim.build", broken)
    with pytest.raises(RuntimeError, match="our fault"):
        train(photos, tmp_path / "run")


# ---- methods on pairs

PRETRAINING = {  # options by which one caption an image is enough
    "align": (),
    "multi_view": ("--method.texts", "1", "--method.role", "caption"),
    "cliprocket": ("--method.hidden", "16"),
    "dreamlip": ("--method.pool", "caption", "--method.sentences", "2"),
    "mod_x": ("--method.phases", "1"),
    "distill_clip": (),
}


@pytest.mark.parametrize("name", PRETRAINING)
def test_a_batch_of_one_has_nothing_to_be_told_apart_from(name, refused, photos, tmp_path):
    options = (*TINY, *PRETRAINING[name], "--batch-size", "1", "--quiet")
    message = refused("train", name, "--data", photos, *options, "--out", tmp_path / "run")
    has(message, "batch size 1 is below the 2", "raise --batch-size")


@pytest.mark.parametrize("name", PRETRAINING)
def test_captions_without_words_are_texts_or_counted_damage(name, diptych, tmp_path):
    """Marks alone are a text as good as any; blanks are none, and are counted and replaced."""
    folder = make_folder(tmp_path / "photos")
    texts = sorted(folder.rglob("*.txt"))
    for path, said in zip(texts, ("!?", "🎉", "…", "the of and", "   "), strict=False):
        path.write_text(said, "utf-8")
    options = (*TINY, *PRETRAINING[name], "--max-bad", "0.2", "--epochs", "2", "--quiet")
    called = diptych("train", name, "--data", folder, *options, "--out", tmp_path / "run")
    assert called.code == 0, called.err
    has(called.err, "1 no-caption")


@pytest.mark.parametrize(
    ("name", "words", "parts"),
    [
        (
            "multi_view",
            ("--method.role", "caption", "--method.texts", "3"),
            (
                "at most 1 texts of role 'caption'",
                "3 views of texts are asked for",
                "lower --method.texts",
            ),
        ),
        (
            "multi_view",
            ("--method.images", "0", "--method.texts", "2"),
            ("'images' of method MultiView is 0", "at least 1"),
        ),
        (
            "multi_view",
            ("--method.arrays", "{sound: 8}", "--method.texts", "1"),
            ("arrays.sound", "MultiView"),
        ),
        ("dreamlip", ("--method.pool", "long"), ("texts.long", "DreamLIP")),
        (
            "dreamlip",
            ("--method.sentences", "0", "--method.pool", "caption"),
            ("'sentences' of method DreamLIP is 0", "at least 1"),
        ),
        ("cliprocket", ("--method.role", "web"), ("texts.web", "CLIPRocket")),
        (
            "cliprocket",
            ("--method.extra", "slip", "--method.local", "3"),
            ("two strong views", "local=2"),
        ),
        ("mod_x", ("--method.phases", "2"), ("'phase1'", "--data phase1=SOURCE")),
        ("align", ("--method.duplicates", "postives"), ("'postives'", "did you mean 'positives'")),
        ("distill_clip", ("--method.teacher", "tnyy"), ("teacher", "tnyy")),
        ("clip", ("--with", "simclr"), ("simclr cannot be added",)),
    ],
)
def test_views_and_roles_that_the_data_cannot_give_are_refused(
    name, words, parts, refused, photos, tmp_path
):
    has(
        refused(
            "train", name, "--data", photos, *TINY, *words, "--quiet", "--out", tmp_path / "run"
        ),
        *parts,
    )
