"""Methods that tune a model on classes or on pairs."""

import pytest
import torch
from tests.training.helpers import read_log

from diptych.errors import InputError
from diptych.methods.adapt.fine_tune import FineTuneOnPairs
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import build_method, run

CONFIG = {"recipe": {"steps": 3, "batch_size": 8}, "options": {"quiet": True}}


def tuned(name, data, out, **config):
    """The state of the encoder after a run on pairs, from `tiny`."""
    given = resolve(name, {"train": str(data)}, preset="tune", init="tiny", config=config, **CONFIG)
    run(given, out)
    return load(out).encoder.state_dict()


def moved(state):
    start = load("tiny").encoder.state_dict()
    return {name for name, value in state.items() if not torch.equal(start[name], value)}


def test_a_locked_image_tower_is_embedded_once_and_gives_the_same_run(
    pairs_csv, tmp_path, monkeypatch
):
    options = {"image": False, "augment": None}
    states = {}
    for name in ("once", "each"):
        if name == "each":
            monkeypatch.setattr(FineTuneOnPairs, "cached", False)
        states[name] = tuned("fine_tune", pairs_csv, tmp_path / name, **options)
        assert not any(part.startswith("image") for part in moved(states[name]))
        stored = list((tmp_path / name / "state").glob("columns-*"))
        assert len(stored) == (name == "once")
    losses = [
        [line["loss"] for line in read_log(tmp_path / name) if "loss" in line] for name in states
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_wise_ft_on_pairs_goes_halfway(pairs_csv, tmp_path):
    start = load("tiny").encoder.state_dict()
    end = tuned("fine_tune", pairs_csv, tmp_path / "end")
    half = tuned("wise_ft", pairs_csv, tmp_path / "half", alpha=0.5)
    name = "text_projection.weight"
    assert not torch.equal(start[name], end[name])
    torch.testing.assert_close(half[name], (start[name] + end[name]) / 2)


def test_rates_fall_from_block_to_block_on_pairs():
    config = resolve("fine_tune", {"train": "x"}, preset="tune", init="tiny")
    method, delivered = build_method(config, None)
    [stage] = method.stages()
    last = len(delivered.text.transformer.layers) - 1
    assert stage.lr_scale[f"model.text.transformer.layers.{last - 1}"] == 0.75
    assert method.name == "FineTuneOnPairs"


def test_pairs_without_classes_are_told_to_tune(pairs_csv, tmp_path):
    config = resolve("lora", {"train": str(pairs_csv)}, init="tiny", **CONFIG)
    with pytest.raises(
        InputError, match="has texts and no labels.class; tune on them with --preset tune"
    ):
        run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("lora", {"role": "long"}, "role is an option on pairs, and this run tunes on classes"),
        ("lora", {"on": "pairs", "label": "kind"}, "label is an option on classes"),
        ("fine_tune", {"image": False}, "neither tower is trained; set image or text"),
        ("wise_ft", {"on": "captions"}, "'on' of method WiSEFT is 'captions'"),
    ],
)
def test_options_that_do_not_fit_are_refused(name, config, said):
    with pytest.raises(InputError, match=said):
        resolve(name, {"train": "x.csv"}, init="tiny", config=config)
