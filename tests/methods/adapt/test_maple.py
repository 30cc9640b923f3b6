"""MaPLe's logits by loops over images, classes, heads and tokens, written from the equations
alone."""

import math

import pytest
import torch
from tests.factories import random_images
from tests.methods.adapt.helpers import method

HEADS, WIDE = 2, 64  # of both towers, the width of the image tower
TOWER = f"vit:image_size=32:patch=16:width={WIDE}:depth=3:heads={HEADS}:pre_norm=true"
CLASSES = {1: ("bar",), 3: ("red circle on the left", "bar", "blue_square")}


def norm(x, state, name):
    """Layer norm of one token."""
    centred = x - x.mean()
    return (
        centred / torch.sqrt((centred**2).mean() + 1e-5) * state[f"{name}.weight"]
        + state[f"{name}.bias"]
    )


def linear(x, state, name):
    return state[f"{name}.weight"] @ x + state[f"{name}.bias"]


def block(tokens, state, name, causal):
    """x + attention(norm x), then x + mlp(norm x), of a list of tokens."""
    normed = [norm(x, state, f"{name}.norm1") for x in tokens]
    q, k, v = ([linear(x, state, f"{name}.attn.{part}") for x in normed] for part in "qkv")
    size, out = len(tokens[0]) // HEADS, []
    for at, x in enumerate(tokens):
        read = []
        for head in range(HEADS):
            own = slice(head * size, (head + 1) * size)
            seen = range(at + 1 if causal else len(tokens))
            weights = [
                math.exp(float(q[at][own] @ k[other][own]) / math.sqrt(size)) for other in seen
            ]
            read.append(
                sum(weights[n] * v[other][own] for n, other in enumerate(seen)) / sum(weights)
            )
        out.append(x + linear(torch.cat(read), state, f"{name}.attn.out"))
    for at, x in enumerate(out):
        hidden = linear(norm(x, state, f"{name}.norm2"), state, f"{name}.mlp.fc1")
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        out[at] = x + linear(hidden, state, f"{name}.mlp.fc2")
    return out


def unit(x):
    return x / x.norm()


def text_vector(made, state, name, prompts):
    """P_0 in the place of the first words, P_i in the same places at the input of block i; read at
    the end of text."""
    words, tower = made.model.tokenizer, "model.encoder.text"
    written = f"a photo of a {name.replace('_', ' ')}."
    ids = [*words.before, *words.ids(written), *words.after]
    tokens = [state[f"{tower}.table.weight"][token] for token in ids]
    b = len(prompts[0])
    tokens[1 : 1 + b] = list(prompts[0])
    tokens = [x + state[f"{tower}.positions"][place] for place, x in enumerate(tokens)]
    for layer in range(3):
        if 1 <= layer < len(prompts):
            tokens[1 : 1 + b] = list(prompts[layer])
        tokens = block(tokens, state, f"{tower}.transformer.layers.{layer}", causal=True)
    return unit(
        state["model.encoder.text_projection.weight"] @ norm(tokens[-1], state, f"{tower}.norm")
    )


def image_vector(state, pixels, prompts):
    """CLS and patches with positions, Q_0 behind them, all through the first norm; Q_i in the place
    of Q_(i-1)."""
    tower, b = "model.encoder.image", len(prompts[0])
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).double().view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).double().view(3, 1, 1)
    x, kernel = (pixels.double() / 255 - mean) / std, state[f"{tower}.patch_embed.weight"]
    tokens = [state[f"{tower}.cls"][0]]
    for at, (row, column) in enumerate([(0, 0), (0, 16), (16, 0), (16, 16)]):
        patch = x[:, row : row + 16, column : column + 16]
        own = (
            torch.stack([(patch * each).sum() for each in kernel])
            + state[f"{tower}.patch_embed.bias"]
        )
        tokens.append(own + state[f"{tower}.positions"][at])
    tokens = [norm(x, state, f"{tower}.pre_norm") for x in [*tokens, *prompts[0]]]
    for layer in range(3):
        if 1 <= layer < len(prompts):
            tokens = [*tokens[:-b], *prompts[layer]]
        tokens = block(tokens, state, f"{tower}.transformer.layers.{layer}", causal=False)
    return unit(
        state["model.encoder.image_projection.weight"] @ norm(tokens[0], state, f"{tower}.norm")
    )


@pytest.mark.parametrize(("classes", "depth", "batch"), [(3, 1, 1), (1, 2, 3), (3, 3, 3)])
def test_maple_equals_loops(classes, depth, batch):
    made = method("maple", image=TOWER, classes=CLASSES[classes], n_ctx=2, depth=depth).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():  # norms and biases too
            parameter.add_(
                0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            )
        state, x = made.state_dict(), random_images(batch)
        prompts = [state["model.context"], *(state[f"model.deep.{at}"] for at in range(depth - 1))]
        shown = [
            [linear(row, state, f"model.couple.{at}") for row in each]
            for at, each in enumerate(prompts)
        ]
        texts = [text_vector(made, state, name, prompts) for name in CLASSES[classes]]
        images = [image_vector(state, pixels, shown) for pixels in x]
        scale = float(made.model.encoder.logit_scale())
        expected = torch.stack(
            [torch.stack([scale * (image @ text) for text in texts]) for image in images]
        )
        torch.testing.assert_close(made.model(x), expected, rtol=1e-9, atol=1e-9)
