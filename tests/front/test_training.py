"""`diptych.train` on data of a program, and the run that it returns."""

import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

import diptych
from diptych.cli import main
from diptych.errors import InputError
from diptych.front import training
from diptych.front.training import Settings
from diptych.methods.base import Recipe
from diptych.methods.pretrain.clip import CLIP
from diptych.testing import check_method
from diptych.training.options import Options

OWN = Path(__file__).parents[1] / "methods" / "decoupled.py"
TINY = {
    "image_tower": "vit:image_size=32:patch=16:width=32:depth=1:heads=2",
    "text_tower": "text:width=32:depth=1:heads=2",
    "tokenizer": "bpe:vocab_size=300:context=24",
    "embed_dim": 16,
    "steps": 3,
    "batch_size": 8,
    "quiet": True,
}
COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200), "grey": (90, 90, 90)}


def pairs(count: int) -> list[tuple[np.ndarray, str]]:
    names = list(COLOURS)
    found = []
    for number in range(count):
        name = names[number % 4]
        found.append((np.full((20, 20, 3), COLOURS[name], np.uint8), f"{name} thing {number}"))
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return diptych.train("clip", pairs(16), out, val=pairs(8), epochs=2, **{**TINY, "steps": None})


def test_a_run_has_its_model_and_its_history(run):
    assert repr(run) == f"Run({str(run.folder)!r}: clip, 4 steps)"
    assert run.model.embed_texts(["red"]).shape == (1, 16)
    assert [line["step"] for line in run.steps] == [0, 1, 2, 3]
    assert len(run.validations) == 2
    assert run.history[0]["event"] == "start"
    table = run.to_pandas()
    assert list(table["epoch"]) == [0, 1]
    assert table["val/t2i_r1"].notna().all()
    assert "<td>0</td>" in run._repr_html_()
    again = diptych.Run(str(run.folder))
    assert again.history == run.history


def test_a_method_and_its_options_may_be_given_as_a_program_has_them(tmp_path, monkeypatch):
    asked = []

    def stop(resolved, *others, **more):
        asked.append(resolved)
        raise InputError("enough")

    monkeypatch.setattr(training, "run", stop)

    def resolved(method, **options):
        with pytest.raises(InputError, match="enough"):
            diptych.train(method, pairs(4), tmp_path / "run", **{**TINY, **options})
        return asked.pop()

    assert resolved(OWN).method == str(OWN)
    assert resolved("clip", added="siglip").added == ("siglip",)
    assert resolved("clip", added=[OWN]).added == (str(OWN),)
    config = CLIP.Config(max_scale=20.0)
    assert resolved("clip", config=config).config["max_scale"] == 20.0
    for method, options, message in (
        (CLIP, {}, "CLIP is a class, and a method is given by its name or its file; write 'clip'"),
        (3, {}, "3 names no method"),
        (
            "clip",
            {"config": CLIP.Config},
            "config is <class .*; give the method's options as a map",
        ),
        ("clip", {"config": 3}, "config is 3; give the method's options as a mapping"),
    ):
        with pytest.raises(InputError, match=message):
            diptych.train(method, pairs(4), tmp_path / "run", **{**TINY, **options})


def test_a_comparison_takes_no_class(tmp_path):
    settings = {"data": "glyphs", "test": "glyphs", "budget": 16, "out": tmp_path / "out"}
    with pytest.raises(InputError, match="CLIP is a class.*write 'clip'"):
        diptych.compare([CLIP], **settings)
    with pytest.raises(InputError, match="unknown method 'clpi'"):
        diptych.compare("clpi", **settings)


def test_a_class_of_the_program_is_checked_by_its_file(monkeypatch):
    class Mine(CLIP):
        pass

    monkeypatch.setattr(Mine, "__module__", "__main__")
    with pytest.raises(InputError, match="Mine is a class of the running program.*give the file"):
        check_method(Mine)


def test_a_stream_that_no_stage_reads_is_told(tmp_path, caplog):
    streams = {"train": pairs(16), "texts": pairs(4)}
    with caplog.at_level("WARNING"):
        diptych.train("clip", streams, tmp_path / "run", **TINY)
    told = "no stage of CLIP reads the stream 'texts', they read train; only the tokenizer learns"
    assert told in caplog.text


def test_the_report_searches_the_data_of_the_program(run):
    from diptych.lab.run_report import write

    html = (run.folder / "report.html").read_text("utf-8")
    assert ">after</div>" in html
    assert "which is not kept" in write(run.folder).read_text("utf-8")


def test_a_run_is_drawn(run):
    figure = run.plot()
    loss, validation = figure.axes
    [line] = loss.lines
    assert line.get_xdata().tolist() == [1, 2, 3, 4]
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert "t2i_r1" in {line.get_label() for line in validation.lines}


def test_what_is_missing_is_named_with_its_remedy(run, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="holds no run; name a folder"):
        diptych.Run(tmp_path)
    monkeypatch.delitem(sys.modules, "diptych.front._curves", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        InputError, match=r"matplotlib; install it with pip install 'diptych\[lab\]'"
    ):
        run.plot()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pandas; install it with pip install pandas"):
        run.to_pandas()


def test_a_run_on_data_of_a_program_goes_on_from_the_program(run, tmp_path, capsys):
    assert run.config["data"] == {"train": "python:list of 16 pairs"}
    assert run.config["val"] == "python:list of 8 pairs"
    out = tmp_path / "run"
    frame = pandas.DataFrame(pairs(16), columns=["image", "caption"])
    diptych.train("clip", {"train": frame}, out, **TINY)
    assert diptych.train("clip", frame, out, resume=True, **TINY).model
    assert main(["train", "--resume", "--out", str(out)]) == 2
    assert "was given by a Python program" in capsys.readouterr().err
    with pytest.raises(InputError, match="pandas table of 16 rows, is now python:list of 16"):
        diptych.train("clip", pairs(16), out, resume=True, **TINY)


def test_a_dataset_that_returns_the_wrong_thing_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="item 0 of list of 1 pairs is a int; give"):
        diptych.train("clip", [3], tmp_path / "run", **TINY)
    later = [*pairs(15), 3]
    with pytest.raises(InputError, match="1 wrong-type"):
        diptych.train("clip", later, tmp_path / "run", **TINY, max_bad=0)
    with pytest.raises(InputError, match="unknown setting 'epoch'; did you mean 'epochs'"):
        diptych.train("clip", pairs(8), tmp_path / "run", epoch=3)  # type: ignore[call-arg]


def test_the_settings_are_the_fields_of_recipe_and_options():
    fields = {**Recipe.__dataclass_fields__, **Options.__dataclass_fields__}
    assert list(Settings.__annotations__) == list(fields)
