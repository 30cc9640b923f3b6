"""Parts that workers embed, without a cluster: work is pickled as for one, and runs here."""

import shutil
from functools import partial

import pytest
from tests.embeddings.helpers import Noises, contents, toy_model
from tests.factories import Here

import diptych
from diptych.data.probe import Probe
from diptych.embeddings import parts, spread
from diptych.embeddings.embed import embed_source
from diptych.embeddings.parts import Part, merge
from diptych.embeddings.spread import embed_parts, number_of_parts
from diptych.embeddings.writer import LOCK, unfinished_folder
from diptych.errors import InputError
from diptych.files import locked

SETTINGS = {"batch_size": 6, "max_bad": 0.5}


def load(device="cpu"):
    return toy_model()


def load_other(device="cpu"):
    """Load another model on workers than where the command runs."""
    model = toy_model()
    if device == "auto":
        model.__dict__["identity"] = "other"
    return model


def embed(out, engine, source=None, **options):
    embed_parts(engine, load, source or Noises(), out, **{**SETTINGS, **options})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "emb"
    embed_source(toy_model(), Noises(), out, **SETTINGS)
    return contents(out)


def test_parts_in_any_order_are_the_bytes_of_one_process(whole, tmp_path):
    engine, seen, out = Here(), [], tmp_path / "emb"
    embed(out, engine, progress=lambda *at: seen.append(at))
    assert engine.items == [Part(number, 9) for number in range(9, 0, -1)]
    assert seen == [(0, 50), (2, 50), *((number, 50) for number in range(8, 51, 6))]
    merge(out, max_bad=0.5)
    assert contents(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["emb"]


def test_what_is_done_is_kept_and_not_done_again(whole, tmp_path):
    out, seen = tmp_path / "emb", []

    def goes(at):
        if at == 4:
            raise InputError("the cluster went away")

    with pytest.raises(InputError, match="went away"):
        embed(out, Here(goes))
    assert len(parts.missing(out)) == 5
    assert {path.name for path in parts.folder_of(out).iterdir()} == {
        f"{n}-of-9" for n in range(6, 10)
    }
    engine = Here()
    embed(out, engine, progress=lambda *at: seen.append(at))
    assert engine.items == [Part(number, 9) for number in range(5, 0, -1)]
    assert seen[0] == (20, 50)
    merge(out, max_bad=0.5)
    assert contents(out) == whole


def test_parts_of_another_division_go_on(whole, tmp_path):
    """Of a job array, and back to one process."""
    out = tmp_path / "emb"
    embed_source(toy_model(), Noises(), out, part="2/3", **SETTINGS)
    engine = Here(lambda at: (_ for _ in ()).throw(InputError("gone")) if at == 0 else None)
    with pytest.raises(InputError, match="gone"):
        embed(out, engine)
    assert engine.items == [Part(3, 3)]
    embed_source(toy_model(), Noises(), out, **SETTINGS)
    assert contents(out) == whole


def test_other_settings_are_refused_before_the_cluster_is_asked(tmp_path):
    out = tmp_path / "emb"
    embed(out, Here())
    shutil.rmtree(parts.folder_of(out) / "1-of-9")
    engine = Here()
    with pytest.raises(InputError, match=r"other settings .*batch size 6, now 7"):
        embed(out, engine, batch_size=7)
    with pytest.raises(InputError, match="device 'cuda:1' is of one machine"):
        embed(out, engine, device="cuda:1")
    assert engine.items == []


def test_a_worker_waits_for_the_lock_of_a_part(tmp_path, monkeypatch):
    """The worker that Ray gave up may still write: it is one writer or an error."""
    monkeypatch.setattr(spread, "_PATIENCE", 0.0)
    out = tmp_path / "emb"
    hidden = unfinished_folder(Part(9, 9).folder(out))
    hidden.mkdir(parents=True)
    with (
        locked(hidden / LOCK, "", shared=True),
        pytest.raises(InputError, match="another process is writing"),
    ):
        embed(out, Here())
    monkeypatch.undo()
    naps = []
    monkeypatch.setattr(spread.time, "sleep", naps.append)
    monkeypatch.setattr(spread, "embed_part", busy_once(spread.embed_part))
    embed(out, Here())
    assert naps == [1]
    assert not parts.missing(out)


def busy_once(embed_part):
    calls = []

    def wrapped(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise spread.Busy("busy")
        return embed_part(*arguments)

    return wrapped


def test_a_node_without_the_folder_the_data_or_the_model_is_an_error(tmp_path):
    out = tmp_path / "emb"
    folder = parts.folder_of(out)

    def unshared(at):
        for path in folder.glob("*.token"):
            path.unlink()

    with pytest.raises(
        InputError, match=r"the node .* does not find .*emb\.parts; give --out a folder"
    ):
        embed(out, Here(unshared))
    with pytest.raises(InputError, match="the node .* loads another model; copy the same"):
        embed_parts(Here(), load_other, Noises(), out, **SETTINGS)
    probe = Probe.of(Noises())
    probe.check(Noises(count=60))
    with pytest.raises(
        InputError, match="the node .* reads other data as noises; put the data where"
    ):
        Probe(1, probe.content).check(Noises())


@pytest.mark.parametrize(("device", "gpus"), [("auto", None), ("cpu", False), ("cuda", True)])
def test_a_device_says_what_a_worker_has(tmp_path, device, gpus):
    engine = Here()
    embed(tmp_path / "emb", engine, device=device)
    assert engine.gpus is gpus


def test_the_number_of_parts_follows_from_the_source():
    assert [number_of_parts(samples, 64) for samples in (1, 64, 65)] == [1, 1, 2]
    assert number_of_parts(10**8, 64) == 10_000


def test_python_gives_a_model_by_its_spec(tmp_path):
    with pytest.raises(InputError, match="give the model's spec"):
        diptych.embed(toy_model(), "glyphs", tmp_path / "emb", engine="ray")
    with pytest.raises(InputError, match="leave out part="):
        diptych.embed("tiny", "glyphs", tmp_path / "emb", engine="ray", part="1/2")
    assert isinstance(spread.loader("tiny"), partial)
