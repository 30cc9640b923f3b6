"""What can be wrong with the files of a run, of embeddings and of an index, and with options: each
is one line.

A row is a name, the command, how its files are made bad, and what the line must contain.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from safetensors.torch import load_file, save_file
from tests.cli.helpers import TINY, make_folder

from diptych.cli import main
from diptych.files import locked
from diptych.models.saved import checksum


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """One run of three steps with a checkpoint at each, its embeddings with an index, and their
    images."""
    root = tmp_path_factory.mktemp("made")
    make_folder(root / "photos")
    assert (
        main(
            [
                "train",
                "clip",
                "--data",
                str(root / "photos"),
                *TINY,
                "--save-every",
                "1",
                "--quiet",
                "--out",
                str(root / "run"),
            ]
        )
        == 0
    )
    assert main(["embed", str(root / "run"), str(root / "photos"), "--out", str(root / "emb")]) == 0
    assert main(["index", str(root / "emb")]) == 0
    return root


@pytest.fixture
def here(made, tmp_path) -> SimpleNamespace:
    """Copies, and commands on them."""
    shutil.copytree(made / "run", tmp_path / "run")
    shutil.copytree(made / "emb", tmp_path / "emb")
    config = tmp_path / "run" / "config.yaml"
    begin = [str(made / "run"), str(tmp_path / "run")]
    config.write_text(config.read_text().replace(*begin))
    photos = str(made / "photos")
    run, emb, out = (str(tmp_path / name) for name in ("run", "emb", "out"))
    commands = {
        "info": ["info", run],
        "embed": ["embed", run, photos, "--out", out],
        "resume": ["train", "--resume", "--quiet", "--out", run],
        "train": ["train", "clip", "--data", photos, *TINY, "--quiet", "--out", out],
        "search": ["search", emb, "a red thing", "--model", run],
        "exact": ["search", emb, "a red thing", "--exact", "--model", run],
        "index": ["index", emb],
        "add": ["index", emb, "--remove", "00.png"],
        "export": ["export", run, "--to", "onnx", "--out", out],
    }
    return SimpleNamespace(
        run=tmp_path / "run",
        emb=tmp_path / "emb",
        out=tmp_path / "out",
        photos=made / "photos",
        commands=commands,
    )


def refused(words: list[str], capsys) -> str:
    capsys.readouterr()
    code = main(words)
    said = capsys.readouterr()
    assert code == 2, said
    assert said.err.startswith("diptych: "), said
    assert said.err.count("\n") == 1, said
    assert "Traceback" not in said.err
    return said.err


# ---- how files are made bad

Damage = Callable[[SimpleNamespace], Any]


def text(name: str, content: str | bytes) -> Damage:
    """A file with other content."""
    return lambda here: at(here, name).write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def at(here: SimpleNamespace, name: str) -> Path:
    root, _, rest = name.partition("/")
    return getattr(here, root) / rest


def changed(name: str, change: Callable[[Any], Any]) -> Damage:
    """A JSON file, changed in place."""

    def damage(here: SimpleNamespace) -> None:
        path = at(here, name)
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return damage


def put(name: str, *keys: str, value: Any) -> Damage:
    def change(values: Any) -> None:
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return changed(name, change)


def without(name: str, key: str) -> Damage:
    return changed(name, lambda values: values.pop(key))


def gone(name: str) -> Damage:
    return lambda here: at(here, name).unlink()


def cut(name: str) -> Damage:
    def damage(here: SimpleNamespace) -> None:
        path = at(here, name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def weights(change: Callable[[dict], Any]) -> Damage:
    """Other tensors, with the checksum that model.json wants, and without the hash of the
    description."""

    def damage(here: SimpleNamespace) -> None:
        path = here.run / "model.safetensors"
        state = load_file(path)
        change(state)
        save_file(state, path)
        put("run/model.json", "weights", value=checksum(path))(here)

    return damage


def then(*damages: Damage) -> Damage:
    return lambda here: [damage(here) for damage in damages]


def shape(state: dict) -> None:
    state["image_projection.weight"] = state["image_projection.weight"][:, :-1].contiguous()


def dtype(state: dict) -> None:
    state["image_projection.weight"] = state["image_projection.weight"].double()


def tensors(change: Callable[[dict], Any]) -> Damage:
    def damage(here: SimpleNamespace) -> None:
        path = newest(here) / "tensors.safetensors"
        state = load_file(path)
        change(state)
        save_file(state, path)

    return damage


def newest(here: SimpleNamespace) -> Path:
    return sorted((here.run / "state").glob("step-*"))[-1]


def saved(*keys: str, value: Any = None, drop: bool = False) -> Damage:
    """A checkpoint whose state.json differs; `{"dict": [[key, value], …]}` stands for a mapping
    there."""

    def damage(here: SimpleNamespace) -> None:
        path = newest(here) / "state.json"
        tree = json.loads(path.read_text())
        pairs = tree["dict"]
        for key in keys[:-1]:
            pairs = dict(map(tuple, pairs))[key]["dict"]
        [entry] = [entry for entry in pairs if entry[0] == keys[-1]]
        if drop:
            pairs.remove(entry)
        else:
            entry[1] = value
        path.write_text(json.dumps(tree))

    return damage


def half_shapes(state: dict) -> None:
    for name, value in state.items():
        if value.ndim == 2:
            state[name] = value[:, ::2].contiguous()


def vectors(change: Callable[[np.ndarray], np.ndarray], kind: str = "img_emb") -> Damage:
    def damage(here: SimpleNamespace) -> None:
        [path] = (here.emb / kind).glob("*.npy")
        np.save(path, change(np.load(path)))

    return damage


def metadata(change: Callable[[Any], Any]) -> Damage:
    def damage(here: SimpleNamespace) -> None:
        [path] = (here.emb / "metadata").glob("*.parquet")
        pyarrow.parquet.write_table(change(pyarrow.parquet.read_table(path)), path)

    return damage


def unindexed(damage: Damage) -> Damage:
    return then(gone("emb/index.json"), damage)


def photos(change: Callable[[Path], Any]) -> Damage:
    """A run whose data have changed since, under the same name."""

    def damage(here: SimpleNamespace) -> None:
        moved = here.out.with_name("photos")
        shutil.copytree(here.photos, moved)
        config = here.run / "config.yaml"
        config.write_text(config.read_text().replace(str(here.photos), str(moved)))
        change(moved)

    return damage


def half(folder: Path) -> None:
    for path in sorted(folder.iterdir())[16:]:
        path.unlink()


def quarter(folder: Path) -> None:
    for path in sorted(folder.iterdir())[8:]:
        path.unlink()


def grown(folder: Path) -> None:
    for ending in ("png", "txt"):
        shutil.copy(folder / f"00.{ending}", folder / f"90.{ending}")


def renamed(folder: Path) -> None:
    for ending in ("png", "txt"):
        (folder / f"00.{ending}").rename(folder / f"x0.{ending}")


def looping(here: SimpleNamespace) -> None:
    here.out.symlink_to(here.out)


def occupied(here: SimpleNamespace) -> None:
    (here.out.with_name("elsewhere")).mkdir()
    (here.out.with_name("elsewhere") / "letter.txt").write_text("dear all")
    here.out.symlink_to(here.out.with_name("elsewhere"))


DIGITS = '{"format": "diptych-model/1", "method": ' + "9" * 5000 + "}"
DEEP = "[" * 100_000
MODEL = "run/model.json"
EMB = "emb/diptych.json"
INDEX = "emb/index.json"
CONFIG = "run/config.yaml"

ROWS: list[tuple[str, str, Damage, tuple[str, ...]]] = [
    # model.json
    ("model.json is missing", "embed", gone(MODEL), ("no model.json", "diptych train")),
    ("model.json is empty", "embed", text(MODEL, ""), ("model.json is damaged", "copy it again")),
    ("model.json is cut", "embed", cut(MODEL), ("model.json is damaged",)),
    ("model.json is no UTF-8", "embed", text(MODEL, b"\xff\xfe{}"), ("model.json is damaged",)),
    (
        "model.json has a number of 5,000 digits",
        "embed",
        text(MODEL, DIGITS),
        ("model.json is damaged", "digit"),
    ),
    (
        "model.json is nested deeply",
        "embed",
        text(MODEL, DEEP),
        ("model.json is damaged", "nested too deeply"),
    ),
    ("model.json is a list", "embed", text(MODEL, "[1]"), ("model.json is of format 'list'",)),
    (
        "model.json is of another format",
        "embed",
        put(MODEL, "format", value="x/1"),
        ("of format 'x/1'",),
    ),
    (
        "model.json has a format of a mapping",
        "embed",
        put(MODEL, "format", value={"a": 1}),
        ("of format",),
    ),
    ("model.json in info", "info", text(MODEL, "{"), ("model.json is damaged",)),
    (
        "model.json is a folder",
        "embed",
        then(gone(MODEL), lambda here: (here.run / "model.json").mkdir()),
        ("model.json is not a file",),
    ),
    (
        "model.json is a device",
        "embed",
        then(gone(MODEL), lambda here: (here.run / "model.json").symlink_to("/dev/zero")),
        ("model.json is not a file",),
    ),
    *[
        (
            f"model.json lacks {key}",
            "embed",
            without(MODEL, key),
            ("model.json is damaged", f"it lacks '{key}'"),
        )
        for key in ("method", "config", "dual", "tokenizer", "tokenizer_fingerprint", "preprocess")
    ],
    *[
        (
            f"model.json has {key} of another type",
            "embed",
            put(MODEL, key, value=3),
            ("model.json is damaged", f"'{key}' is 3"),
        )
        for key in (
            "method",
            "config",
            "dual",
            "kept",
            "tokenizer",
            "tokenizer_fingerprint",
            "preprocess",
            "weights",
            "stored",
            "training",
        )
    ],
    (
        "activation changed",
        "embed",
        put(MODEL, "dual", "text", "activation", value="quick_gelu"),
        ("model.json is not the description", "copy both"),
    ),
    (
        "heads changed",
        "embed",
        put(MODEL, "dual", "image", "heads", value=4),
        ("model.json is not the description",),
    ),
    (
        "mean changed",
        "search",
        put(MODEL, "preprocess", "mean", value=[0, 0, 0]),
        ("model.json is not the description",),
    ),
    (
        "a shape of no tensor",
        "embed",
        then(weights(lambda state: None), put(MODEL, "dual", "embed_dim", value=-1)),
        ("model.json",),
    ),
    (
        "a tower of another kind",
        "embed",
        then(weights(lambda state: None), put(MODEL, "dual", "image", value={"name": 3})),
        ("model.json describes no model",),
    ),
    (
        "a tower without a name",
        "embed",
        then(weights(lambda state: None), put(MODEL, "dual", "image", value={})),
        ("model.json",),
    ),
    (
        "no preprocessing",
        "embed",
        then(weights(lambda state: None), put(MODEL, "preprocess", value=None)),
        ("model.json",),
    ),
    (
        "a tokenizer of nothing",
        "embed",
        then(weights(lambda state: None), put(MODEL, "tokenizer", value={"kind": "bpe"})),
        ("tokenizer is damaged",),
    ),
    # weights
    ("weights are missing", "embed", gone("run/model.safetensors"), ("unfinished run", "--resume")),
    ("weights are cut", "embed", cut("run/model.safetensors"), ("checksum differs",)),
    (
        "weights lack a tensor",
        "embed",
        weights(lambda state: state.pop("image_projection.weight")),
        ("lacks image",),
    ),
    ("weights have another shape", "embed", weights(shape), ("image_projection.weight is",)),
    (
        "weights have another type",
        "embed",
        weights(dtype),
        ("image_projection.weight is torch.float64",),
    ),
    (
        "weights are no safetensors",
        "embed",
        then(
            text("run/model.safetensors", "hello"),
            lambda here: put(MODEL, "weights", value=checksum(here.run / "model.safetensors"))(
                here
            ),
        ),
        ("not a readable safetensors file",),
    ),
    # config.yaml
    ("config.yaml is missing", "resume", gone(CONFIG), ("config.yaml",)),
    ("config.yaml is no YAML", "resume", text(CONFIG, "a: [1"), ("config.yaml is not YAML",)),
    ("config.yaml is no UTF-8", "resume", text(CONFIG, b"\xff\xfea: 1"), ("config.yaml",)),
    ("config.yaml is a list", "resume", text(CONFIG, "- 1"), ("config.yaml holds no options",)),
    ("config.yaml is nested deeply", "resume", text(CONFIG, "[" * 5000), ("config.yaml",)),
    (
        "config.yaml has a number of 5,000 digits",
        "resume",
        text(CONFIG, "seed: " + "9" * 5000),
        ("config.yaml",),
    ),
    (
        "config.yaml has a tag",
        "resume",
        text(CONFIG, "a: !!python/object/apply:os.system ['true']"),
        ("config.yaml",),
    ),
    (
        "config.yaml has an unknown option",
        "resume",
        text(CONFIG, "method: clip\nlearning: 3"),
        ("option in", "learning"),
    ),
    (
        "config.yaml has a recipe of text",
        "resume",
        text(CONFIG, "method: clip\nrecipe: fast"),
        ("recipe",),
    ),
    (
        "config.yaml has a method of no name",
        "resume",
        text(CONFIG, "method: 3"),
        ("is 3; write its name",),
    ),
    # data that changed
    (
        "data shrank below a batch of the epoch",
        "resume",
        photos(half),
        ("had 16 samples and has 8",),
    ),
    ("data shrank below a batch", "resume", photos(quarter), ("had 16 samples and has 4",)),
    ("data grew", "resume", photos(grown), ("had 16 samples and has 17", "another --out")),
    ("data have another key", "resume", photos(renamed), ("has 16 samples as before, but others",)),
    # checkpoints
    (
        "a checkpoint's state is cut",
        "resume",
        lambda here: (newest(here) / "state.json").write_text('{"dict'),
        ("state.json is damaged", "remove the checkpoint"),
    ),
    (
        "a checkpoint's state is a list",
        "resume",
        lambda here: (newest(here) / "state.json").write_text("[]"),
        ("is damaged",),
    ),
    (
        "a checkpoint's state is nested deeply",
        "resume",
        lambda here: (newest(here) / "state.json").write_text(DEEP),
        ("nested too deeply",),
    ),
    (
        "a checkpoint's tensors are cut",
        "resume",
        lambda here: (newest(here) / "tensors.safetensors").write_bytes(b"hello"),
        ("is damaged",),
    ),
    (
        "a checkpoint lacks tensors",
        "resume",
        tensors(lambda state: state.pop("t0")),
        ("is damaged", "t0"),
    ),
    (
        "a checkpoint has tensors of other shapes",
        "resume",
        tensors(half_shapes),
        ("does not fit the run",),
    ),
    *[
        (
            f"a checkpoint lacks {key}",
            "resume",
            saved(key, drop=True),
            (f"it lacks '{key}'", "remove the checkpoint"),
        )
        for key in ("position", "method", "optimizer", "average", "damaged", "skipped")
    ],
    (
        "a checkpoint's position is text",
        "resume",
        saved("position", value="here"),
        ("'position' is 'here'",),
    ),
    (
        "a checkpoint's step is negative",
        "resume",
        saved("position", "done", value=-1),
        ("'done'", "is -1"),
    ),
    (
        "a checkpoint's stage is none",
        "resume",
        saved("position", "stage", value=7),
        ("does not fit the run",),
    ),
    (
        "a checkpoint's position has more",
        "resume",
        saved("position", value={"dict": [["stage", 0], ["hour", 3]]}),
        ("'hour'",),
    ),
    (
        "the tokenizer of a run is missing",
        "resume",
        gone("run/state/tokenizer.json"),
        ("tokenizer.json is missing",),
    ),
    (
        "the tokenizer of a run is damaged",
        "resume",
        text("run/state/tokenizer.json", "{"),
        ("tokenizer.json is damaged",),
    ),
    (
        "the tokenizer of a run is a list",
        "resume",
        text("run/state/tokenizer.json", "[]"),
        ("tokenizer",),
    ),
    # diptych.json
    ("diptych.json is missing", "search", gone(EMB), ("no diptych.json", "diptych embed")),
    ("diptych.json is cut", "search", cut(EMB), ("diptych.json is damaged",)),
    ("diptych.json is no UTF-8", "search", text(EMB, b"\xff{}"), ("diptych.json is damaged",)),
    ("diptych.json is nested deeply", "search", text(EMB, DEEP), ("nested too deeply",)),
    ("diptych.json is text", "index", text(EMB, '"here"'), ("diptych.json is of format 'str'",)),
    *[
        (
            f"diptych.json lacks {key}",
            "search",
            without(EMB, key),
            ("diptych.json is damaged", f"it lacks '{key}'"),
        )
        for key in ("model", "identity", "dimension", "count", "texts", "source", "damaged")
    ],
    *[
        (
            f"diptych.json has {key} of another type",
            "exact",
            put(EMB, key, value=[None]),
            ("diptych.json is damaged", f"'{key}' is [None]"),
        )
        for key in (
            "model",
            "identity",
            "dimension",
            "count",
            "texts",
            "source",
            "damaged",
            "exact",
        )
    ],
    (
        "diptych.json has a negative dimension",
        "exact",
        put(EMB, "dimension", value=-3),
        ("'dimension' is -3",),
    ),
    (
        "diptych.json counts more",
        "exact",
        unindexed(put(EMB, "count", value=99)),
        ("holds 16 vectors",),
    ),
    # index.json
    ("index.json is cut", "search", cut(INDEX), ("index.json is damaged", "remove")),
    ("index.json is a number", "search", text(INDEX, "3"), ("index.json is of format 'int'",)),
    ("index.json is nested deeply", "index", text(INDEX, DEEP), ("nested too deeply",)),
    *[
        (
            f"index.json lacks {key}",
            "search",
            without(INDEX, key),
            ("index.json is damaged", f"it lacks '{key}'"),
        )
        for key in ("identity", "parts", "removed", "k", "nprobe", "measured", "file", "size")
    ],
    *[
        (
            f"index.json has {key} of another type",
            "search",
            put(INDEX, key, value="x" if key != "file" else 3),
            ("index.json is damaged", f"'{key}' is"),
        )
        for key in ("dimension", "parts", "removed", "recall", "lists", "measured", "file", "size")
    ],
    (
        "index.json has a part of text",
        "search",
        put(INDEX, "parts", value=["."]),
        ("index.json is damaged",),
    ),
    (
        "index.json removes what is not there",
        "search",
        put(INDEX, "removed", value=[99]),
        ("index.json is damaged",),
    ),
    (
        "index.json names a file elsewhere",
        "search",
        put(INDEX, "file", value="../../x.faiss"),
        ("index.json is damaged",),
    ),
    (
        "the index file is missing",
        "search",
        gone("emb/index-0.faiss"),
        ("index-0.faiss is missing",),
    ),
    ("the index file is cut", "search", cut("emb/index-0.faiss"), ("index-0.faiss is damaged",)),
    (
        "the index file to change is cut",
        "add",
        cut("emb/index-0.faiss"),
        ("index-0.faiss is damaged", "remove"),
    ),
    # vectors and their metadata
    (
        "vectors are missing",
        "exact",
        unindexed(lambda here: shutil.rmtree(here.emb / "img_emb")),
        ("holds 0 vectors",),
    ),
    (
        "vectors are cut",
        "exact",
        unindexed(lambda here: cut("emb/img_emb/img_emb_0.npy")(here)),
        ("img_emb_0.npy is damaged",),
    ),
    (
        "vectors are too few",
        "exact",
        unindexed(vectors(lambda array: array[:-1])),
        ("holds 15 vectors",),
    ),
    (
        "vectors are of another type",
        "exact",
        unindexed(vectors(lambda array: array.astype(np.float64))),
        ("float64",),
    ),
    (
        "vectors are of another dimension",
        "exact",
        unindexed(vectors(lambda array: array[:, 1:])),
        ("(16, 15)",),
    ),
    (
        "vectors are not of unit length",
        "exact",
        unindexed(vectors(lambda array: 184 * array)),
        ("length 184 and not 1",),
    ),
    (
        "vectors are not finite",
        "exact",
        unindexed(vectors(lambda array: array * np.float32("nan"))),
        ("length nan",),
    ),
    (
        "texts' vectors are of another dimension",
        "index",
        unindexed(vectors(lambda array: array[:, 1:], "text_emb")),
        ("text_emb_0.npy holds",),
    ),
    (
        "metadata are missing",
        "exact",
        unindexed(lambda here: shutil.rmtree(here.emb / "metadata")),
        ("0 metadata files",),
    ),
    (
        "metadata are cut",
        "exact",
        unindexed(lambda here: cut("emb/metadata/metadata_0.parquet")(here)),
        ("is damaged",),
    ),
    (
        "metadata have too few rows",
        "exact",
        unindexed(metadata(lambda table: table.slice(0, 3))),
        ("has 3 rows for 16 vectors",),
    ),
    (
        "metadata lack a column",
        "exact",
        unindexed(metadata(lambda table: table.drop_columns(["key"]))),
        ("is damaged",),
    ),
    (
        "metadata lack the keys",
        "add",
        metadata(lambda table: table.drop_columns(["key"])),
        ("is damaged",),
    ),
    # folders to write to
    ("out is a file", "train", lambda here: here.out.write_text("x"), ("is a file", "--out")),
    (
        "out holds other files",
        "train",
        lambda here: (here.out.mkdir(), (here.out / "a").touch()),
        ("is not empty",),
    ),
    ("out is a link to a folder with files", "train", occupied, ("is not empty",)),
    ("out is a link to itself", "train", looping, ("link",)),
    ("embed into a link to itself", "embed", looping, ("link",)),
    ("embed into a link to a folder with files", "embed", occupied, ("exists",)),
    (
        "embed into a folder with files",
        "embed",
        lambda here: (here.out.mkdir(), (here.out / "a").touch()),
        ("exists",),
    ),
    ("export into a link to itself", "export", looping, ("link",)),
    ("export into a folder", "export", lambda here: here.out.mkdir(), ("exists already",)),
]


@pytest.mark.parametrize(
    ("command", "damage", "parts"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_bad_files_are_one_line(here, capsys, command, damage, parts):
    damage(here)
    said = refused(here.commands[command], capsys)
    for part in parts:
        assert part in said


RECIPE = {
    "lr": ("0", "above 0"), "betas": ("[0.9,1]", "below 1"), "eps": ("-1", "at least 0"),
    "weight_decay": ("-1", "at least 0"), "warmup": ("-1", "at least 0"), "min_lr": ("2", "from 0 to 1"),
    "epochs": ("0", "above 0"), "steps": ("0", "at least 1"), "batch_size": ("0", "at least 1"),
    "clip": ("-1", "above 0"), "ema": ("1", "below 1"), "precision": ("float16", "bfloat16"), "chunk": ("0",
     "at least 1"),
    "optimizer": ("adamv", "did you mean 'adam'"), "schedule": ("cosin", "did you mean 'cosine'"),
}  # fmt: skip
OPTIONS = {
    "workers": ("-1", "at least 0"), "max_bad": ("2", "from 0 to 1"), "save_every": ("0", "at least 1"),
    "nonfinite": ("go", "stop or skip"), "spike": ("1", "above 1"), "forget": ("-1", "at least 0"),
    "tracker": ("paper", "tensorboard"), "seed": ("1.5", "a whole number"),
}  # fmt: skip
METHOD = {
    ("clip", "scale"): ("-1", "above 0"), ("clip", "duplicates"): ("apar", "did you mean 'apart'"),
    ("clip", "together"): ("0", "at least 1"), ("mod_x", "reduction"): ("median", "sum or mean"),
    ("mod_x", "phases"): ("0", "at least 1"), ("dreamlip", "weighting"): ("x", "minmax"),
    ("dreamlip", "negatives"): ("all", "image or batch"), ("swav", "iterations"): ("0", "at least 1"),
    ("align", "smoothing"): ("1", "below 1"), ("cliprocket", "drop_path"): ("1.5", "from 0 to 1"),
}  # fmt: skip
BAD_OPTIONS = [
    *[("clip", f"--recipe.{name}={value}", part) for name, (value, part) in RECIPE.items()],
    *[("clip", f"--options.{name}={value}", part) for name, (value, part) in OPTIONS.items()],
    *[
        (method, f"--method.{name}={value}", part)
        for (method, name), (value, part) in METHOD.items()
    ],
    ("clip", "--embed-dim=-4", "at least 0"),
]


@pytest.mark.parametrize(
    ("method", "word", "part"), BAD_OPTIONS, ids=[row[1] for row in BAD_OPTIONS]
)
def test_bad_options_are_one_line_and_nothing_is_begun(here, capsys, method, word, part):
    command = here.commands["train"]
    said = refused(["train", method, *command[2:], word], capsys)
    assert part in said
    assert not (here.out / "model.json").exists()


# ---- what must work


def works(words: list[str], capsys) -> str:
    capsys.readouterr()
    code = main(words)
    said = capsys.readouterr()
    assert code == 0, said
    return said.out


@pytest.mark.parametrize("command", ["train", "embed"])
@pytest.mark.parametrize("dangling", [True, False])
def test_out_may_be_a_link(here, capsys, command, dangling):
    target = here.out.with_name("target")
    if not dangling:
        target.mkdir()
    here.out.symlink_to(target)
    works(here.commands[command], capsys)
    assert here.out.is_symlink()
    assert (target / ("model.json" if command == "train" else "diptych.json")).exists()


@pytest.mark.parametrize("command", ["train", "resume"])
def test_a_second_run_into_a_folder_is_refused(here, capsys, command):
    folder = here.run if command == "resume" else here.out
    folder.mkdir(exist_ok=True)
    with locked(folder, "busy"):
        assert "another run is writing" in refused(here.commands[command], capsys)
    works(here.commands[command], capsys)


def test_what_lies_beside_checkpoints_and_damaged_lines_of_the_log_are_no_trouble(here, capsys):
    shutil.copytree(newest(here), here.run / "state" / "step-2.bak")
    with (here.run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"done": 2, "x": "\xff\xfe')
    works(here.commands["resume"], capsys)
    (here.run / "metrics.jsonl").read_text(encoding="utf-8")


def test_a_start_that_a_full_disk_broke_off_can_be_resumed(here, capsys, monkeypatch):
    from diptych.training import run

    def full(*_):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(run, "_write_tokenizer", full)
        refused(here.commands["train"], capsys)
    works(["train", "--resume", "--quiet", "--out", str(here.out)], capsys)
    assert (here.out / "state" / "tokenizer.json").exists()


def test_a_run_that_is_refused_leaves_no_folder(here, capsys):
    refused([*here.commands["train"], "--batch-size", "99"], capsys)
    words = here.commands["train"]
    refused([*words[:3], "nowhere/", *words[4:-1], str(here.out.with_name("other"))], capsys)
    assert not here.out.with_name("other").exists()
