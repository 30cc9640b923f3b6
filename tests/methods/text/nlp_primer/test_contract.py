"""The contract suite over the objectives, of which the card's default is one."""

import pytest

from diptych.methods.text.nlp_primer import Config
from diptych.methods.text.nlp_primer.catalogue import OBJECTIVES
from diptych.testing import check as suite

SPECS = {
    **{name: name for name in OBJECTIVES if name != Config.objective},
    "declutr": "declutr:min_length=4:max_length=8",
    "cert": "cert:queue=16",
    "residual_energy": "residual_energy:length=32",
    # at the default tau the loss cannot fall by half: several texts of a label are right
    "supcon": "supcon:label=class:tau=0.02",
}

# Their first loss says nothing of how far it can fall: noise that is also a word of the text bounds
# that of binary_nce, and the random keys of a new queue are no negatives. Their own tests ask what
# they learn.
OTHER_SIGNAL = {"binary_nce", "cert"}
CHECKS = [check for check in suite.CHECKS if check is not suite.learns_its_own_signal]


def subject(name):
    return suite.Subject.of("nlp_primer", {"objective": SPECS[name]})


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_objective_keeps_contract(name, check):
    check(subject(name))


@pytest.mark.parametrize("name", [name for name in SPECS if name not in OTHER_SIGNAL])
def test_objective_learns_its_own_signal(name):
    suite.learns_its_own_signal(subject(name))


@pytest.mark.parametrize("name", SPECS)
def test_objective_trains_on_two_ranks_as_on_one(name, two):
    suite.two_ranks_train_as_one(subject(name), two)


@pytest.mark.parametrize("name", sorted({*SPECS} - {"supcon_tuning"}))
def test_what_is_delivered_is_the_encoder_alone(name):
    """Heads, generators, matchers of layers and copies are of training."""
    method = subject(name).make(subject(name).preset("small", 8))
    kept = {key.partition(".")[0] for key in method.deliver().state_dict()}
    assert kept <= {"text", "text_projection", "logit_scale"}
