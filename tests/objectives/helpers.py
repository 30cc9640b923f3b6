"""Random features, and the memory that a loss keeps for its backward."""

import torch


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def saved_bytes(make_loss) -> int:
    """Bytes that backward keeps alive, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = make_loss()
    loss.backward()
    return sum(storages.values())
