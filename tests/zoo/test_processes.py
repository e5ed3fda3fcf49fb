"""The noise in training that is spread over two processes on a CPU, by DDP."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import bridgeout_lite as bl

pytestmark = pytest.mark.zoo

KINDS = ("nn.Dropout", "Sparseout", "attached Bridgeout")


def network(kind):
    torch.manual_seed(0)
    dropout = [nn.Dropout(0.5)] if kind == "nn.Dropout" else []
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *dropout, nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    if kind == "Sparseout":
        bl.attach_sparseout(model, 0.5, 1.0)
    return bl.attach_bridgeout(model, 0.3, 1.0) if kind == "attached Bridgeout" else model


def gathered(x):
    parts = [torch.empty_like(x) for _ in range(2)]
    dist.all_gather(parts, x)
    return parts


def train(rank, store, kind):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    model, x = nn.parallel.DistributedDataParallel(network(kind)), torch.ones(2, 3, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(rank)
    for _ in range(2):
        optimizer.zero_grad()
        out = model(x)
        out.square().sum().backward()
        optimizer.step()
    noisy = gathered(out.detach())
    assert not torch.equal(*noisy), "each process draws its own noise"
    assert torch.equal(*gathered(torch.cat([p.detach().flatten() for p in model.parameters()]))), (
        "all have the same weights"
    )
    model.eval()
    assert torch.equal(*gathered(model(x).detach()))
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes(kind, tmp_path):
    mp.spawn(train, (f"file://{tmp_path}/store", kind), nprocs=2)
