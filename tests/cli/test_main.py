"""The command line itself: help, lists, configs, streams, what goes to stdout and what to
stderr."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml
from accelerate.state import AcceleratorState
from tests.cli.helpers import TINY, encoded, finish, image, make_folder, make_table, make_tar, shell

from diptych import cli
from diptych.cli import main, parse
from diptych.cli._screen import progress
from diptych.cli.train import streams
from diptych.data.sources import formats
from diptych.errors import InputError
from diptych.models import int8
from diptych.training.log import Log


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data") / "photos")


def test_every_verb_is_in_the_help_and_has_its_own_with_examples(diptych):
    for words in ([], ["--help"], ["-h"], ["help"]):
        called = diptych(*words)
        assert called.code == 0
        assert all(f"\n  {verb} " in called.out for verb in cli.verbs())
    for verb in cli.verbs():
        called = diptych(verb, "--help")
        assert called.code == 0
        assert called.out.startswith(f"usage: diptych {verb} ")
        assert f"\n  diptych {verb}" in called.out.partition("Examples:")[2]
        assert "jsonargparse" not in called.out
        assert "SUPPRESS" not in called.out


def test_help_of_a_method_tells_its_options_and_the_presets_values(diptych):
    out = diptych("train", "siglip", "--help").out
    assert "--method.bias X" in out
    assert "small: -10; paper: -10" in out
    assert "--recipe.warmup X" in out
    assert "--method." not in diptych("train", "--help").out.partition("Method:")[2]


def test_help_of_a_method_spells_values_as_they_are_read(diptych):
    out = " ".join(diptych("train", "clip", "--help").out.split())
    assert "small: {crop: [0.5, 1], turn: 12, colour: 0.2, ramp: [0.06, 0.6]}; paper: {};" in out
    words = ("--recipe.clip", "null", "--recipe.betas", "[0.9, 0.98]", "--method.clips", "false",
             "--method.augment", "{crop: [0.5, 1], turn: 12}")  # fmt: skip
    for name, value in zip(words[::2], words[1::2], strict=True):
        assert f"{name} " in out
        assert value.rstrip("}") in out
    found = cli.parse(["train", "clip", *words])
    assert (found.recipe.clip, found.recipe.betas, found.method.clips) == (None, (0.9, 0.98), False)
    assert found.method.augment == {"crop": [0.5, 1], "turn": 12}


@pytest.mark.parametrize(
    "words",
    [
        ["view", "{}", "--quick", "--out", "{}"],
        ["view", "--out={}", "{}"],
        ["data", "label", "{}:text=caption", "--model", "tiny", "--out", "{}"],
        ["generate", "tiny-lm", "--data", "test={}", "--out", "{}"],
    ],
)
def test_an_input_is_not_written_over(refused, tmp_path, words):
    table = tmp_path / "mine.jsonl"
    table.write_text('{"text": "one"}\n')
    message = refused(*(word.format(table) for word in words))
    assert "mine.jsonl would replace" in message
    assert table.read_text() == '{"text": "one"}\n'


def test_version(diptych):
    assert diptych("--version").out.startswith("diptych 0.")


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("", "siglip"),
        ("methods", "clip"),
        ("models", "openclip:RN50"),
        ("towers", "vit"),
        ("sources", "tar"),
        ("suites", "zeroshot"),
        ("optimizers", "adamw"),
    ],
)
def test_lists_as_tables_and_as_json(diptych, what, name):
    words = [what] if what else []
    assert name in diptych("list", *words).out
    rows = json.loads(diptych("list", *words, "--json").out)
    assert any(name in row.values() for row in rows)


def test_a_list_is_filtered_by_any_column(diptych):
    rows = json.loads(diptych("list", "models", "--filter", "DATACOMPDR_lt", "--json").out)
    assert [row["name"] for row in rows] == ["openclip:MobileCLIP-B"]
    assert {"pixels": 224, "towers": "timm:vit_base_mci_224, text"}.items() <= rows[0].items()
    assert "149.8 M" in diptych("list", "models", "--filter", "datacompdr_lt").out


def test_every_format_is_listed(diptych):
    assert {row["format"] for row in json.loads(diptych("list", "sources", "--json").out)} == set(
        formats()
    )


def test_the_cards_of_methods_are_listed_in_full(diptych):
    row = next(row for row in json.loads(diptych("list", "--json").out) if row["name"] == "clip")
    assert row["title"].startswith("CLIP: ")
    assert (row["year"], row["kind"], row["provenance"]) == (2021, "method", "code")


def test_streams_by_role():
    assert streams(["glyphs:split=train,a.tar"]) == {"train": "glyphs:split=train,a.tar"}
    assert streams(["s/{0..3,7}.tar", "web=a.tar,b.tar,dense=c.csv:text=x"]) == {
        "train": "s/{0..3,7}.tar",
        "web": "a.tar,b.tar",
        "dense": "c.csv:text=x",
    }
    assert streams(["web=a.tar", "web=b.tar"]) == {"web": "a.tar,b.tar"}


def test_options_come_from_preset_file_and_words_in_this_order(train, diptych, photos, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"method: clip\ndata: {photos}\nlr: 0.25\nseed: 3\nsave_every: 7\n"
        "recipe: {warmup: 2, betas: [0.5, 0.75], clip: 1.0}\nconfig: {scale: 20, augment: {flip: true}}\n"
    )
    called = diptych(
        "train",
        "--config",
        path,
        *TINY,
        "--lr",
        "1e-3",
        "--recipe.clip",
        "null",
        "--method.max_scale=50",
        "--out",
        tmp_path / "run",
    )
    assert called.code == 0, called
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"] == {"train": str(photos)}
    recipe = config["recipe"]
    assert (recipe["lr"], recipe["warmup"], recipe["betas"], recipe["clip"]) == (
        0.001,
        2.0,
        [0.5, 0.75],
        None,
    )
    assert recipe["schedule"] == "cosine"
    assert config["config"] == {"scale": 20.0, "max_scale": 50.0, "augment": {"flip": True}}
    assert (config["options"]["seed"], config["options"]["save_every"]) == (3, 7)

    again = diptych(
        "train",
        "--config",
        tmp_path / "run" / "config.yaml",
        "--out",
        tmp_path / "again",
        "--quiet",
    )
    assert again.code == 0, again
    second = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    assert second == {**config, "options": {**config["options"], "quiet": True}}


def test_the_method_may_stand_anywhere(diptych, photos, tmp_path):
    called = diptych(
        "train",
        "--quiet",
        "--data",
        photos,
        "--method.scale",
        "5",
        "clip",
        *TINY,
        "--out",
        tmp_path / "run",
    )
    assert called.code == 0, called
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["config"]["scale"] == 5.0


def test_the_word_for_how_long_beats_the_file(diptych, photos, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"method: clip\ndata: {{train: {photos}}}\nrecipe: {{steps: 50}}\n")
    words = [word for word in TINY if not word.startswith("--steps")]
    assert (
        diptych("train", "--config", path, *words, "--epochs", "1", "--out", tmp_path / "run").code
        == 0
    )
    recipe = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["recipe"]
    assert (recipe["epochs"], recipe["steps"]) == (1.0, None)


def test_a_run_is_trained_measured_embedded_searched_and_told(train, diptych, tmp_path):
    data, run, emb = make_table(tmp_path / "table"), tmp_path / "run", tmp_path / "emb"
    called = train(data, run, "--val", data, "--recipe.precision", "float32")
    assert f"{run} holds the model (3 steps) and report.html" in called.out
    assert "i2t_r1" in called.err

    measured = json.loads(
        diptych("evaluate", run, "--data", data, "--suite", "retrieval,zeroshot", "--json").out
    )
    assert measured["retrieval"]["n"] == measured["zeroshot"]["n"] == 16
    shown = diptych(
        "evaluate", run, "--data", data, "--suite", "retrieval,zeroshot", "--label", "label"
    ).out
    for name in (
        "i2t_r1",
        "mean_per_class",
        measured["retrieval"]["protocol"],
        measured["zeroshot"]["protocol"],
    ):
        assert name in shown

    assert f"diptych search {emb}" in diptych("embed", run, data, "--out", emb).out
    assert np.load(emb / "img_emb" / "img_emb_0.npy").shape == (16, 16)
    hits = json.loads(diptych("search", emb, "a red thing", "-k", "3", "--json").out)
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    itself = json.loads(
        diptych("search", emb, "--image", data.parent / "05.jpg", "-k", "1", "--json").out
    )
    assert itself[0]["image_path"] == str(data.parent / "05.jpg")
    assert hits[0]["key"] in diptych("search", emb, "a red thing").out

    facts = json.loads(diptych("info", run, "--json").out)
    assert (facts["method"], facts["steps"], facts["embed_dim"]) == ("clip", 3, 16)
    assert facts["checksum"].startswith("sha256:")
    assert "vit, " in diptych("info", run).out

    moved = run.rename(tmp_path / "moved")
    assert str(run) in diptych("search", emb, "red").err
    assert diptych("search", emb, "red", "--model", moved).code == 0


# Worst cosine to float32: .9999, and .9993, or .9981 where inputs have 7 bits.
PRECISIONS = {"bfloat16": 0.9995, "int8": 0.996 if int8.available() and int8.saturates() else 0.998}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_verbs_that_embed_take_a_precision(train, diptych, photos, tmp_path, precision):
    run, words = tmp_path / "run", ("--precision", precision)
    train(photos, run)
    if precision == "int8" and not int8.available():
        called = diptych("embed", run, photos, "--out", tmp_path / "refused", *words)
        assert called.code == 2
        assert "x86" in called.err
        return
    vectors = {}
    for name, given in {"exact": (), "low": words}.items():
        called = diptych("embed", run, photos, "--out", tmp_path / name, *given)
        assert called.code == 0, called
        vectors[name] = [
            np.load(tmp_path / name / kind / f"{kind}_0.npy") for kind in ("img_emb", "text_emb")
        ]
    for exact, low in zip(vectors["exact"], vectors["low"], strict=True):
        assert not np.array_equal(exact, low)
        assert (exact * low).sum(1).min() >= PRECISIONS[precision]
    exact, low = (
        json.loads(diptych("evaluate", run, "--data", photos, "--json", *given).out)["retrieval"]
        for given in ((), words)
    )
    assert low["n"] == exact["n"] == 16
    assert (
        low["protocol"] != exact["protocol"]
    )  # numbers of another precision are not compared unawares
    itself = (
        "search",
        tmp_path / "exact",
        "--image",
        photos / "05.png",
        "-k",
        "1",
        "--json",
        *words,
    )
    assert (
        json.loads(diptych(*itself).out)[0]["key"]
        == json.loads(diptych(*itself[:-2]).out)[0]["key"]
    )


def test_a_tracker_gets_the_config_and_goes_on_when_resumed(train, diptych, photos, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    train(photos, run, "--val", photos, "--tracker", "tensorboard")
    (sent,) = (run / "tensorboard").glob("*/hparams.yml")
    config = yaml.safe_load(sent.read_text())
    assert (config["method"], config["recipe.lr"], config["data.train"]) == (
        "clip",
        0.002,
        str(photos),
    )
    assert diptych("train", "--resume", "--out", run).code == 0
    assert list((run / "tensorboard").glob("*/hparams.yml")) == [sent]
    read = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [each.step for each in read.Scalars("loss")] == [0, 1, 2]
    assert "val/i2t_r1" in read.Tags()["scalars"]


@pytest.mark.parametrize("kind", ["folder", "tar", "glyphs"])
def test_every_kind_of_source_goes_all_the_way(train, diptych, photos, tmp_path, kind):
    sources = {
        "folder": photos,
        "tar": make_tar(tmp_path / "web.tar"),
        "glyphs": "glyphs:split=val:design=noto",
    }
    data, run, emb = sources[kind], tmp_path / "run", tmp_path / "emb"
    assert train(data, run, "--val", data).code == 0
    count = json.loads(diptych("check", data, "--json").out)["samples"]
    assert (
        json.loads(diptych("evaluate", run, "--data", data, "--json").out)["retrieval"]["n"]
        == count
    )
    assert diptych("embed", run, data, "--out", emb).code == 0
    assert (
        len(json.loads(diptych("search", emb, "a red thing", "-k", "99999", "--json").out)) == count
    )


def test_the_demo_shows_what_it_reached_beside_the_bars(diptych, tmp_path, monkeypatch):
    given = {}

    def run_demo(out, **settings):
        given.update(settings, out=out)
        found = {"t2i_r5": 0.5, "pixel_lookup_r5": 0.25}
        return {
            "unseen_design": {"plain": found, "placed": found},
            "unseen_concepts": {"t2i_r5": 0.125},
        }

    monkeypatch.setattr("diptych.lab.demo.run_demo", run_demo)
    called = diptych("demo", "--out", tmp_path / "demo", "--seed", "7")
    assert (called.code, given["seed"], given["out"]) == (0, 7, tmp_path / "demo")
    for part in (
        "plain",
        "placed",
        "concepts",
        "0.500",
        "0.250",
        "0.125",
        "0.350",
        tmp_path / "demo" / "report.html",
    ):
        assert str(part) in called.out


def test_check_tells_duplicates_leakage_and_tokens(diptych, photos, tmp_path):
    twin = make_folder(tmp_path / "twin", 4, extra={"copy.png": (photos / "01.png").read_bytes()})
    found = json.loads(diptych("check", twin, "--val", photos, "--batch-size", "4", "--json").out)
    assert found["duplicates"]["images"] == 1
    assert found["leakage"]["same_image"] == 4
    assert found["captions"]["tokens"]["max"] > 1
    shown = diptych("check", twin, "--val", photos).out
    for name in ("01.png = copy.png", "4 of 16 images", "length in tokens", "reading an epoch"):
        assert name in shown


def test_check_estimates_with_gradient_caching(diptych, refused, photos):
    words = ("check", photos, "--batch-size", "16", "--json")
    whole, cut = (
        json.loads(diptych(*words, *more).out)["training"] for more in ((), ("--chunk", "64"))
    )
    assert (whole["chunk"], cut["chunk"]) == (None, 64)
    assert cut["batch_bytes"] < whole["batch_bytes"] / 2
    assert "in pieces of 64 tokens" in diptych(*words[:-1], "--chunk", "64").out
    assert "--chunk is 0" in refused(*words, "--chunk", "0")


def test_progress_is_silent_while_short_and_speaks_when_long(capsys, monkeypatch):
    with progress("reading") as report:
        report(1, 2)
        monkeypatch.setattr("diptych.cli._screen.time.perf_counter", lambda: 1e9)
        report(2, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "reading: 2 of 2 (1e-09/s, 0 s left)\n"


def test_only_rank_0_speaks_but_every_rank_tells_its_error(
    train, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("diptych.cli.train.first_rank", lambda: False)
    called = train(photos, tmp_path / "run")
    assert (called.code, called.out, called.err) == (0, "", "")
    monkeypatch.setenv("RANK", "1")
    assert main(["list", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("diptych, rank 1: unknown list")


def interrupt_at(monkeypatch, step, number=signal.SIGINT, times=1):
    """Send this process a signal while it is at a step."""
    write = Log.write

    def writing(self, **values):
        write(self, **values)
        if values.get("step") == step:
            for _ in range(times):
                signal.raise_signal(number)

    monkeypatch.setattr(Log, "write", writing)


def test_ctrl_c_saves_and_tells_how_to_go_on(train, diptych, photos, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        called = train(photos, tmp_path / "run", "--steps", "5")
    assert called.code == 130
    assert f"diptych train --resume --out {tmp_path / 'run'}" in called.err.splitlines()[-1]
    assert (tmp_path / "run" / "state" / "step-000000002").is_dir()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert diptych("train", "--resume", "--out", tmp_path / "run").code == 0


def test_a_number_to_select_by_may_have_a_minus():
    words = ["train", "clip", "--data", "glyphs", "--out", "x", "--seed", "1"]
    for given in (["--select", "-loss"], ["--select=-loss"], ["--recipe.select", "-val/loss"]):
        assert parse([*words, *given]).recipe.select == given[-1].rpartition("=")[2]
    with pytest.raises(InputError, match="--select has no value"):
        parse([*words[:-2], "--select", "--seed", "1"])


def test_ctrl_c_twice_stops_at_once(train, photos, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 1, times=2)
    called = train(photos, tmp_path / "run")
    assert called.code == 130
    assert "go on from the last checkpoint" in called.err.splitlines()[-1]


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m diptych list --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "["
    assert done.stderr == ""


def test_a_shell_sees_one_line_and_the_exit_code(tmp_path):
    called = finish(shell("train", "clpi", "--data", "glyphs", "--out", tmp_path / "run"))
    assert (called.code, called.out) == (2, "")
    assert called.err == "diptych: unknown method 'clpi'; did you mean 'clip'?\n"


def test_check_shows_classes_and_counts_equal_captions_by_sample(diptych, tmp_path):
    for name, number in [("cat/1", 1), ("cat/2", 2), ("dog/3", 1)]:
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(image(number)))
        path.with_suffix(".txt").write_text("the same")
    (tmp_path / "owl").mkdir()
    out = " ".join(diptych("check", tmp_path, "--method", "clip").out.split())
    assert "classes of label class 3, 1 to 2 (half up to 1.5) samples in each cat 2, dog 1" in out
    assert "without a sample 1 owl" in out
    assert "images in two classes 1 cat/1.png = dog/3.png (cat, dog)" in out
    assert "false negatives 2.00 a sample in a batch of 3" in out


@pytest.fixture
def hangup_ends():
    """SIGHUP as a terminal's programs have it; the tests may run under nohup."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, previous)


@pytest.mark.usefixtures("hangup_ends")
def test_a_closed_terminal_saves_as_sigterm_does(train, diptych, photos, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, signal.SIGHUP)
        called = train(photos, tmp_path / "run", "--steps", "5")
    assert called.code == 0
    assert f"diptych train --resume --out {tmp_path / 'run'}" in called.err.splitlines()[-1]
    assert (tmp_path / "run" / "state" / "step-000000002").is_dir()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    assert diptych("train", "--resume", "--out", tmp_path / "run").code == 0


def test_a_signal_that_is_ignored_as_under_nohup_stays_so(train, photos, tmp_path, monkeypatch):
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupt_at(monkeypatch, 1, signal.SIGHUP)
        assert train(photos, tmp_path / "run").code == 0
        assert (tmp_path / "run" / "model.json").exists()
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_stdout_in_ascii_shows_what_it_can(tmp_path, monkeypatch):
    with (tmp_path / "out").open("w", encoding="ascii") as out:
        monkeypatch.setattr(sys, "stdout", out)
        for words in (
            ["--help"],
            ["train", "--help"],
            ["train", "clip", "--help"],
            ["search", "--help"],
        ):
            assert main(words) == 0
    assert "?" in (tmp_path / "out").read_text(encoding="ascii")


@pytest.mark.parametrize(
    "variables", [{"LOCAL_RANK": "3"}, {"WORLD_SIZE": "two", "LOCAL_RANK": "0"}]
)
def test_ranks_that_cannot_meet_are_one_line(
    photos, tmp_path, monkeypatch, refused_training, variables
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps what a process found first
    try:
        message = refused_training(photos, tmp_path / "run")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert "cannot meet" in message
    assert "torchrun" in message


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("mod_x", ("--method.pretrained", "true", "--method.phases", "1")),
        ("contrastive_gap", ("--preset", "paper")),
    ],
)
def test_options_that_go_on_from_weights_need_them(photos, tmp_path, refused, method, words):
    message = refused("train", method, "--data", photos, "--out", tmp_path / "run", *words)
    assert f"{method} with these options adapts a model that has learnt already" in message
    assert "--init" in message
    assert not (tmp_path / "run").exists()
