"""Methods on pairs: several texts a picture."""

import pytest
import torch
from tests.training.helpers import make_engine, make_method, read_log
from torch.nn.functional import normalize

from diptych.methods.base import At

AT = At(0, 10, 0, 0)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_loss_of_several_texts_is_the_mean_of_their_losses(name):
    one, three = make_method(name), make_method(name, role="caption;caption;caption")
    generator = torch.Generator().manual_seed(0)
    image, *texts = (normalize(torch.randn(12, 32, generator=generator), dim=1) for _ in range(4))
    alone = [one.loss({"image": image, "text": text}, None, AT).total for text in texts]
    together = three.loss({"image": image, "text": texts[0], "text2": texts[1], "text3": texts[2]}, None, AT)
    assert set(together.terms) == {"contrastive"}
    torch.testing.assert_close(together.total, torch.stack(alone).mean())


def test_several_texts_are_read_encoded_and_cut_alike(tmp_path):
    """Gradient caching takes the same steps; a text given three times is that text."""
    logs = []
    for roles, chunk in (("caption;*;caption", None), ("caption;*;caption", 60), ("caption", None)):
        out = tmp_path / f"{roles.count(';')} {chunk}"
        make_engine(out, method=make_method(role=roles), recipe={"steps": 3, "chunk": chunk}).run()
        logs.append([line["loss"] for line in read_log(out) if "loss" in line])
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)
    assert logs[0] == pytest.approx(logs[2], abs=1e-5)
