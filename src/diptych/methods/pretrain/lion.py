"""Lion: Symbolic Discovery of Optimization Algorithms (Chen et al., NeurIPS 2023), as a recipe of
CLIP.

An optimiser found by program search: every coordinate moves by the learning rate, in the direction
of the sign of a momentum. It stores one number for each parameter, where AdamW stores two.

    c = b1 m + (1 - b1) g,   w <- w - lr (sign(c) + decay · w),   m <- b2 m + (1 - b2) g,     b1 = 0.9, b2 = 0.99

The optimiser is `training/optim/lion.py` and works with every method: `--optimizer lion`. It
derives its rate and decay from a recipe for AdamW by a factor (lr / 10, decay · 10; set another by
`--optimizer lion:factor=3`) and keeps warm-up and cosine schedule. This file holds the card, and
CLIP's presets with Lion in place of their optimiser; the loss, the towers and the inference are
CLIP's. The search for the program is `diptych discover` (`lab/discover`).
"""

from dataclasses import replace

from diptych.methods.pretrain.clip import CLIP

card = {
    "title": "Lion: Symbolic Discovery of Optimization Algorithms",
    "year": 2023,
    "kind": "optimizer",
    "entry": "LionCLIP",
    "provenance": "code",
}


class LionCLIP(CLIP):
    """CLIP trained with Lion."""


# The rate of `small` is Muon's, which is in units of AdamW's. The paper gives no numbers for CLIP;
# `paper` is CLIP's recipe converted by the recommended factor. [choice]
LionCLIP.presets = {
    name: replace(preset, recipe=replace(preset.recipe, optimizer="lion:factor=10"))
    for name, preset in CLIP.presets.items()
}
