"""Old names: a saved file is read with a warning, a user's own words are refused with the new
name."""

import warnings

import pytest
import torch
import yaml
from tests.methods.adapt.helpers import method

from diptych import renamed
from diptych.data import worlds
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation import check
from diptych.methods import store
from diptych.methods.registry import method_class
from diptych.spec import annotations
from diptych.training import config as training_config

OLD = {
    "coop": {"length": 2, "start": False, "own": True},
    "cocoop": {"length": 2, "start": False},
    "ivlp": {"length": 1, "depth": 2, "image_length": 3, "image_depth": 2},
    "maple": {"length": 3, "depth": 2},
}


def now(name):
    """The options of a method as they are called now."""
    names = renamed.RENAMED[f"option of {name}"]
    return {names.get(key, key): value for key, value in OLD[name].items()}


@pytest.mark.parametrize("name", OLD)
def test_a_model_that_was_saved_with_old_names_is_loaded_and_warns(name, tmp_path):
    made = method(name, **now(name))
    model, make = made.deliver(), made.make
    description = store.describe(name, OLD[name], model, make.tokenizer, model.image.preprocess)
    store.save_model(tmp_path, description, model.state_dict())
    with pytest.warns(FutureWarning) as caught:
        loaded = store.load(tmp_path)
    reported = [str(warning.message) for warning in caught]
    for old, new in renamed.RENAMED[f"option of {name}"].items():
        assert (
            f"{tmp_path / 'model.json'}: option of {name} {old!r} is called {new!r} now, and is read as that"
            in reported
        )
    state = loaded.classifier.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    with pytest.warns(FutureWarning):
        assert store.read_description(tmp_path)["config"] == now(name)


def test_a_removed_option_of_a_saved_file_is_left_out_with_a_warning(tmp_path):
    saved = {"human_epochs": 3.0, "null_positives": "multi"}
    with pytest.warns(FutureWarning, match="option of visualness 'null_positives' is gone"):
        options = renamed.translated("visualness", saved, tmp_path / "model.json")
    assert options == {"human_epochs": 3.0}
    for name, options in renamed.REMOVED.items():
        assert not {*options} & annotations(method_class(name).Config).keys()


def test_a_model_that_was_saved_with_the_names_of_now_warns_of_nothing(tmp_path):
    made = method("maple", **now("maple"))
    description = store.describe(
        "maple", now("maple"), made.model, made.make.tokenizer, made.model.image.preprocess
    )
    store.save_model(tmp_path, description, made.model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.load(tmp_path)


def test_a_config_is_read_by_the_names_of_now_those_of_added_methods_too(tmp_path, monkeypatch):
    monkeypatch.setitem(renamed.RENAMED, "option of multi_view", {"cut": "crop"})
    path = tmp_path / "config.yaml"
    added = ["multi_view:cut=(0.2, 1.0):weight=0.5", "siglip", ""]
    path.write_text(
        yaml.safe_dump(
            {"method": "coop", "added": added, "config": {"start": False, "label": "own"}}
        )
    )
    with pytest.warns(FutureWarning) as caught:
        found = training_config.read(path)
    assert [str(warning.message).split(" is called ")[0] for warning in caught] == [
        f"{path}: option of coop 'start'",
        f"{path}: option of multi_view 'cut'",
    ]
    assert found == {
        "method": "coop",
        "added": ["multi_view:crop=(0.2, 1.0):weight=0.5", "siglip", ""],
        "config": {"init_from_template": False, "label": "own"},
    }


def test_a_file_with_both_names_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    for first, second in (("length", "n_ctx"), ("n_ctx", "length")):
        path.write_text(f"method: coop\nconfig: {{{first}: 3, {second}: 4}}\n")
        with pytest.raises(
            InputError,
            match=r"config.yaml gives the option of coop 'n_ctx' by its old name 'length'",
        ):
            training_config.read(path)


@pytest.mark.parametrize("name", OLD)
def test_an_old_name_is_an_error_in_python(name):
    with pytest.raises(
        InputError, match=f"the option of {name} 'length' is called 'n_ctx' now; write 'n_ctx'"
    ):
        method_class(name).configure({"length": 3})


def test_another_method_may_have_an_option_of_that_name():
    assert method_class("cones").configure({"start": "images"}).start == "images"


def test_the_table_leads_to_options_that_there_are():
    for kind, names in renamed.RENAMED.items():
        if kind.startswith("option of "):
            name = kind.removeprefix("option of ")
            made = worlds.module_of(name) if name in worlds.cards() else method_class(name)
            options = annotations(made.Config)
            assert set(names.values()) <= options.keys()
            assert not names.keys() & options.keys()


def test_sources_of_a_config_have_the_prefixes_of_now(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "data": {"train": "kept:a.npz,scenes:count=9:hands=noto"},
                "val": "kept:b.npz:source=x",
            }
        )
    )
    with pytest.warns(FutureWarning, match="source 'kept' is called 'filtered' now"):
        found = training_config.read(path)
    assert found["data"] == {"train": "filtered:a.npz,scenes:count=9:designs=noto"}
    assert found["val"] == "filtered:b.npz:source=x"


def test_old_suites_and_sources_are_refused_with_their_new_names():
    with pytest.raises(InputError, match="the suite 'flags' is called 'noisy_pairs' now"):
        check(None, None, ["flags"])
    with pytest.raises(InputError, match="the source 'kept' is called 'filtered' now"):
        open_source("kept:a.npz")
    with pytest.raises(InputError, match="the option of scenes 'hands' is called 'designs' now"):
        open_source("scenes:hands=noto")
