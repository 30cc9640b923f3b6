"""The log's numbers, and how often a step reads one from the device."""

import pytest
import torch
from tests.training.helpers import make_engine
from torch.utils._python_dispatch import TorchDispatchMode

from diptych.training.log import fetched

READS = (
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::is_nonzero",
    "aten::equal",
    "aten::_unique2",
    "aten::unique_dim",
)


class Reads(TorchDispatchMode):
    """Collects the tensors that a program reads, and so would wait for a GPU; `tolist` is no operation
    on a CPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        masked = name == "aten::index" and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        )
        if masked or name in READS:
            self.found.append(args[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("read", [float, bool, torch.nonzero, lambda x: x[x > 0]])
def test_reads_are_counted(read):
    with Reads() as reads:
        read(torch.ones(1))
    assert len(reads.found) == 1


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        *(({"optimizer": name}, {}) for name in ("adamw", "muon", "lion", "lamb", "lars")),
        ({"chunk": 64}, {}),
        ({"ema": 0.9, "clip": 1.0}, {"spike": 5.0}),
        ({"precision": "bfloat16"}, {"nonfinite": "skip"}),
    ],
    ids=lambda given: "-".join(map(str, given)) or "plain",
)
def test_a_step_waits_for_the_device_once(tmp_path, monkeypatch, recipe, options):
    engine = make_engine(tmp_path, recipe={"steps": 3, **recipe}, **options)
    step = engine._step
    to_list = torch.Tensor.tolist
    lists = []
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: (lists.append(x), to_list(x))[1])

    def counted(backward, optimizer, *args):
        lists.clear()
        with Reads() as reads:
            step(backward, optimizer, *args)
        assert len(lists) == 1
        # torch and timm keep the number of an optimizer's steps on the CPU
        counters = [*optimizer.state.values(), *optimizer.param_groups]
        own = {id(each["step"]) for each in counters if "step" in each}
        assert not [x for x in reads.found if id(x) not in own]

    monkeypatch.setattr(engine, "_step", counted)
    assert engine.run().steps == 3


def test_numbers_keep_their_type_and_their_digits():
    third = torch.tensor(1 / 3)
    found = fetched(
        {
            "text": "no",
            "single": third.clone().requires_grad_(),
            "double": torch.tensor(1 / 3, dtype=torch.float64),
            "half": torch.tensor([1.5], dtype=torch.bfloat16),
            "count": torch.tensor(2**40 + 1),
            "yes": torch.tensor(True),
            "infinite": torch.tensor(float("inf")),
            "plain": 7,
        }
    )
    assert found == {
        "text": "no",
        "single": float(third),
        "double": 1 / 3,
        "half": 1.5,
        "count": 2**40 + 1,
        "yes": True,
        "infinite": float("inf"),
        "plain": 7,
    }
    assert found["yes"] is True
    assert isinstance(found["count"], int)
    assert fetched({}) == {}
