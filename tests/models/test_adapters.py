"""Adapters of other libraries attach to our towers, since every projection is a plain `nn.Linear`
with a plain name."""

import torch

from diptych.towers.build import image_tower, text_tower
from diptych.towers.dual import DualEncoder


def test_lora_attaches_by_name_and_is_all_that_trains():
    """Complaint 11: packed projections keep adapters out of other towers."""
    from peft import LoraConfig, get_peft_model

    image = image_tower("vit:image_size=32:patch=16:width=64:depth=2")
    text = text_tower("text:width=64:depth=2", vocab_size=50, context=8)
    dual = DualEncoder(image, text, 32)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    before = dual.embed_images(pixels)
    adapted = get_peft_model(dual, LoraConfig(r=2, target_modules=["q", "v"]))
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 2 * 2 * 2  # towers, layers, projections, factors
    assert all("lora_" in name for name in trained)
    after = adapted.embed_images(pixels)
    assert torch.allclose(before, after, atol=1e-6)  # LoRA starts as the identity
    after[:, 0].sum().backward()
    reached = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert reached
    assert reached <= trained
