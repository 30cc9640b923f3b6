"""Methods on images alone, small."""

from tests.factories import make_method

from diptych.methods.base import At
from diptych.methods.make import NO_TOWER

AT = At(5, 10, 0, 0)
FEW = {
    "simclr": {"projector": "mlp:hidden=16", "tau": 0.3},
    "simsiam": {
        "projector": "mlp:hidden=16:last_norm=plain",
        "predictor": "mlp:hidden=8:last_bias=true",
    },
    "byol": {"projector": "mlp:hidden=16", "predictor": "mlp:hidden=16"},
    "barlow_twins": {"projector": "mlp:hidden=16:last_norm=plain", "weight": 0.5},
    "dcl": {"projector": "mlp:hidden=16", "tau": 0.3, "sigma": 0.5},
    "supcon": {"projector": "mlp:hidden=16", "tau": 0.3},
    "swav": {"projector": "mlp:hidden=16", "prototypes": 12, "crops": 3, "queue": 16},
}


def method(name, **config):
    """A method by its name, with narrow heads."""
    return make_method(name, text=NO_TOWER, embed_dim=16, **{**FEW[name], **config})
