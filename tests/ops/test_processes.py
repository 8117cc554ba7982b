"""The ops in other processes: forked and spawned data-loader workers, and distributed training."""

import gc

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scan_cases import BACKENDS, make_case
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from nnunetv2_mamba.ops import directional_scan

CPU_BACKENDS = [name for name, device in BACKENDS if device == "cpu"]


class Scans(Dataset):
    """Every backend on the CPU: its output and, with gradients, the sum of each gradient."""

    def __init__(self, gradients: bool) -> None:
        self.gradients = gradients

    def __len__(self) -> int:
        return len(CPU_BACKENDS)

    def __getitem__(self, item: int) -> torch.Tensor:
        case = make_case(length=200, channels=40)
        if not self.gradients:
            return case.run(CPU_BACKENDS[item]).detach()
        return torch.stack([tensor.sum() for tensor in case.run_with_gradients(CPU_BACKENDS[item]).values()])


# torch refuses any backward in a fork of a process that has run one, so forked workers get the forward only.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(("start_method", "gradients"), [("fork", False), ("spawn", True)])
def test_workers(start_method, gradients):
    scans = Scans(gradients)
    here = [scans[i] for i in range(len(scans))]  # before the workers start: threads and libraries are in use
    loader = DataLoader(scans, batch_size=None, num_workers=1, multiprocessing_context=start_method, timeout=300)
    for expected, actual in zip(here, loader, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


class Scan(torch.nn.Module):
    """A module whose parameters are those of a scan."""

    def __init__(self) -> None:
        super().__init__()
        case = make_case(batch=4)
        self.inputs = {name: case.tensors[name].detach() for name in ("u", "delta", "B", "C", "z")}
        self.paths = case.paths
        for name in ("A", "D", "delta_bias"):
            setattr(self, name, torch.nn.Parameter(case.tensors[name].detach()))

    def forward(self, rows: slice) -> torch.Tensor:
        inputs = {name: tensor[rows] for name, tensor in self.inputs.items()}
        return directional_scan(
            **inputs, A=self.A, D=self.D, delta_bias=self.delta_bias, paths=self.paths, delta_softplus=True
        ).mean()


def train_half_of_the_batch(rank: int, rendezvous: str, gradients: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    model = Scan()
    distributed = DistributedDataParallel(model)
    distributed(slice(2 * rank, 2 * rank + 2)).backward()
    if rank == 0:
        torch.save({name: parameter.grad for name, parameter in model.named_parameters()}, gradients)
    # What holds the process group must be gone: gloo's threads would end with the process, and one that still has a
    # Python object to release then aborts.
    del distributed
    gc.collect()
    dist.destroy_process_group()


def test_distributed_data_parallel(tmp_path):
    mp.spawn(train_half_of_the_batch, (str(tmp_path / "rendezvous"), str(tmp_path / "gradients.pt")), nprocs=2)
    averaged = torch.load(tmp_path / "gradients.pt", weights_only=True)
    model = Scan()
    model(slice(None)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(averaged[name], parameter.grad)
