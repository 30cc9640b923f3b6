"""`embed` after kill -9 at any point: the same command goes on, to the bytes of an unbroken run."""

import json
import shutil
import zlib
from pathlib import Path

import pytest
from tests.embeddings.helpers import Noises, contents, killed, toy_model

from diptych.embeddings import writer
from diptych.embeddings.embed import embed_source
from diptych.errors import InputError
from diptych.models.model import Model


@pytest.fixture(scope="module")
def model():
    return toy_model()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """50 samples with 5 damaged ones are 4 parts; batches of 6 straddle them; progress is saved
    after every batch."""
    monkeypatch.setattr(writer, "PART_ROWS", 12)
    monkeypatch.setattr(writer, "SAVE_SECONDS", 0.0)


def embed(model, out, source=None, **options):
    return embed_source(model, source or Noises(), out, batch_size=6, max_bad=0.5, **options)


@pytest.fixture(scope="module")
def unbroken(model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "PART_ROWS", 12)
        out = tmp_path_factory.mktemp("unbroken") / "emb"
        embed(model, out)
    files = contents(out)
    assert len(files) == 3 * 4 + 1
    return files


POINTS = {
    "write_atomic": writer,
    "write_metadata": writer,
    "sync": writer,
    "append": writer._Npy,
    "close": writer._Npy,
    "_header": writer._Npy,
    "replace": Path,
    "rmtree": writer.shutil,
}


def dies(model, out, point, call, moment) -> bool:
    """Embed, and be killed before or after one call of one function."""
    return killed(POINTS[point], point, call, moment, lambda: embed(model, out))


@pytest.mark.parametrize(
    ("point", "call"),
    [
        ("write_atomic", 1),
        ("write_atomic", 6),
        ("write_metadata", 2),
        ("write_metadata", 4),
        ("sync", 30),
        ("append", 1),
        ("append", 14),
        ("close", 3),
        ("_header", 9),
        ("replace", 4),
        ("rmtree", 1),
    ],
)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_embedding_continues_to_the_bytes_of_an_unbroken_one(
    model, unbroken, tmp_path, point, call, moment
):
    out = tmp_path / "emb"
    assert dies(model, out, point, call, moment)
    if point == "rmtree":  # the last step: the folder has its name already
        assert contents(out) == unbroken
        shutil.rmtree(out)
    assert not out.exists()
    embed(model, out)
    assert contents(out) == unbroken
    assert [path.name for path in tmp_path.iterdir()] == ["emb"]


def test_a_run_killed_again_and_again_arrives(model, unbroken, tmp_path):
    out, kills = tmp_path / "emb", 0
    while dies(model, out, "append", 7, "before"):  # one to three batches a life
        kills += 1
        assert kills < 20
    assert kills >= 4
    assert contents(out) == unbroken


class Stop(BaseException):
    pass


def stop_at(batches):
    def progress(done, total):
        if done >= 6 * batches:
            raise Stop

    return progress


def hidden_of(model, out, **options) -> Path:
    """The folder that a run leaves which ends after five batches."""
    with pytest.raises(Stop):
        embed(model, out, progress=stop_at(5), **options)
    return out.with_name(f".{out.name}.unfinished")


def test_what_is_done_is_not_done_again(model, unbroken, tmp_path):
    hidden_of(model, tmp_path / "emb")
    source, seen = Noises(), []
    embed(model, tmp_path / "emb", source, progress=lambda done, total: seen.append(done))
    assert seen[:2] == [30, 36]
    # Of what was done, only the rows of the part that was open (27 - 2 * 12) are read, for their
    # captions.
    assert sorted(source.read)[:4] == [27, 28, 29, 30]
    assert contents(tmp_path / "emb") == unbroken


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 7}, "batch size 6, now 7"),
        ({"exact": True}, "exact False, now True"),
        ({"source": Noises(51)}, "samples 50, now 51"),
        ({"source": Noises(prefix="m")}, "keys '"),
    ],
)
def test_a_folder_begun_otherwise_is_refused_and_kept(model, unbroken, tmp_path, change, message):
    out = tmp_path / "emb"
    hidden = hidden_of(model, out)
    before = contents(hidden)
    options = {"source": Noises(), "batch_size": 6, "max_bad": 0.5, **change}
    with pytest.raises(
        InputError, match=f"other settings .*{message}.*run that one again.*or remove"
    ):
        embed_source(model, options.pop("source"), out, **options)
    assert contents(hidden) == before
    embed(model, out)
    assert contents(out) == unbroken


def test_another_models_unfinished_folder_is_refused(model, tmp_path):
    hidden_of(model, tmp_path / "emb")
    other = Model(model.encoder, model.tokenizer, model.preprocess, name="other")
    other.__dict__["identity"] = "another"
    with pytest.raises(InputError, match="other settings .*model .*now 'another'"):
        embed(other, tmp_path / "emb")


@pytest.mark.parametrize(
    "name",
    ["emb/img_emb/img_emb_0.npy", "emb/text_emb/text_emb_2.npy", "emb/metadata/metadata_1.parquet"],
)
def test_finished_bytes_are_verified(model, tmp_path, name):
    hidden = hidden_of(model, tmp_path / "emb")
    data = bytearray((hidden / name).read_bytes())
    data[140] ^= 1
    (hidden / name).write_bytes(data)
    with pytest.raises(InputError, match=f"{name.removeprefix('emb/')} is damaged; remove"):
        embed(model, tmp_path / "emb")
    (hidden / name).write_bytes(data[:130])
    with pytest.raises(InputError, match="is damaged; remove"):
        embed(model, tmp_path / "emb")
    (hidden / name).unlink()
    with pytest.raises(InputError, match="is damaged .*remove"):
        embed(model, tmp_path / "emb")
    (hidden / "progress.json").write_text("[")
    with pytest.raises(InputError, match="is damaged .*remove"):
        embed(model, tmp_path / "emb")


def test_checksums_are_those_of_the_bytes(model, tmp_path):
    hidden = hidden_of(model, tmp_path / "emb")
    progress = json.loads((hidden / "progress.json").read_text())
    assert (progress["position"], progress["count"], len(progress["files"])) == (30, 27, 3 * 2 + 2)
    size, checksum = progress["files"]["img_emb/img_emb_2.npy"]
    assert size == 3 * 16 * 4
    assert zlib.crc32((hidden / "emb/img_emb/img_emb_2.npy").read_bytes()[128:][:size]) == checksum


def test_two_processes_do_not_write_one_folder(model, unbroken, tmp_path):
    def meanwhile(done, total):
        if done == 12:
            with pytest.raises(InputError, match="another process is writing"):
                embed(model, tmp_path / "emb")

    embed(model, tmp_path / "emb", progress=meanwhile)
    assert contents(tmp_path / "emb") == unbroken


def test_a_full_disk_keeps_what_was_saved(model, unbroken, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_metadata", full)
        with pytest.raises(InputError, match="no space left .*what was saved is kept"):
            embed(model, tmp_path / "emb")
    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_atomic", lambda path, write: writer_full())
        with pytest.raises(InputError, match="no space left"):
            embed(model, tmp_path / "emb")
    embed(model, tmp_path / "emb")
    assert contents(tmp_path / "emb") == unbroken


def writer_full():
    """As `write_atomic` says it."""
    try:
        raise OSError(28, "No space left on device")
    except OSError as error:
        raise InputError("no space left to write progress.json") from error


def test_a_run_that_allows_less_damage_stops_at_once(model, tmp_path):
    hidden = hidden_of(model, tmp_path / "emb")
    with pytest.raises(InputError, match="are damaged"):
        embed_source(model, Noises(), tmp_path / "emb", batch_size=6, max_bad=0.01)
    assert not hidden.exists()
