"""Lion's card leads to CLIP with Lion in its recipes; what trains is what the optimiser's own tests
test.

There are no golden losses: the sign carries the last bit of a gradient into the third digit of a
loss within 20 steps, so another processor would not repeat them.
"""

from dataclasses import replace

import pytest
from tests.cli.helpers import TINY
from tests.factories import make_method
from tests.training.helpers import make_engine

from diptych.cli import main
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.pretrain.lion import LionCLIP
from diptych.methods.registry import find, method_class
from diptych.testing import check as suite
from diptych.training import optim
from diptych.training.config import read


def test_the_card_says_optimizer_and_leads_to_what_train_can_run():
    assert find("lion").kind == "optimizer"
    assert method_class("lion") is LionCLIP


def test_its_presets_are_clips_but_for_the_optimiser():
    for name, preset in CLIP.presets.items():
        lion = LionCLIP.presets[name]
        assert lion.recipe.optimizer.startswith("lion:factor=")
        assert replace(lion, recipe=preset.recipe) == preset
        assert replace(lion.recipe, optimizer=preset.recipe.optimizer) == preset.recipe


def test_the_factor_is_given_on_the_command_line_with_the_optimisers_name(tmp_path, pairs_csv):
    for method, words, optimizer in (
        ("lion", [], "lion:factor=10"),
        ("lion", ["--optimizer=lion:factor=3"], "lion:factor=3"),
        ("siglip", ["--optimizer=lion"], "lion"),
    ):
        out = tmp_path / f"{method}{len(words)}"
        assert (
            main(["train", method, f"--data={pairs_csv}", *TINY, *words, "--quiet", f"--out={out}"])
            == 0
        )
        assert read(out / "config.yaml")["recipe"]["optimizer"] == optimizer


def test_a_run_keeps_one_moment_a_parameter(tmp_path, monkeypatch):
    method = make_method(LionCLIP)
    held, original = [], optim.build
    monkeypatch.setattr(optim, "build", lambda *args: held.append(original(*args)) or held[-1])
    make_engine(tmp_path, method=method, recipe={"optimizer": "lion", "steps": 2}).run()
    assert optim.state_bytes(held[0]) == sum(p.nbytes for p in method.parameters())


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_contract_of_a_method(check):
    """The card's kind is not "method", its class is one."""
    check(suite.Subject(LionCLIP, "lion"))
