"""AdamW and Lion as programs; they train with the bits of torch's AdamW and of `optim.lion`."""

from collections.abc import Sequence

from diptych.training.programs.program import Program, parse

_ADAMW = """
def train(weight, gradient, state1, state2, step, lr):
    share = 1.0 - {b1!r}
    state1 = interpolate(state1, gradient, share)
    squared = square(gradient)
    state2 = interpolate(squared, state2, {b2!r})
    power1 = power({b1!r}, step)
    power2 = power({b2!r}, step)
    bias1 = 1.0 - power1
    bias2 = 1.0 - power2
    size = lr / bias1
    root = power(bias2, 0.5)
    deviation = sqrt(state2)
    deviation = deviation / root
    deviation = deviation + {eps!r}
    update = state1 * size
    update = update / deviation
    return update, state1, state2
"""

_LION = """
def train(weight, gradient, state1, lr):
    update = interpolate(gradient, state1, {b1!r})
    update = sign(update)
    update = update * lr
    state1 = interpolate(gradient, state1, {b2!r})
    return update, state1
"""


def adamw(betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-8, rate: float = 1.0) -> Program:
    """Return AdamW with its bias correction, at `rate` times the rate of the recipe."""
    text = _ADAMW
    if rate != 1.0:
        text = text.replace("    size = lr", f"    rate = lr * {rate!r}\n    size = rate")
    return parse(text.format(b1=betas[0], b2=betas[1], eps=eps))


def lion(betas: Sequence[float] = (0.9, 0.99)) -> Program:
    """Return Lion at the recipe's own rate, as `lion:factor=1` has it."""
    return parse(_LION.format(b1=betas[0], b2=betas[1]))
