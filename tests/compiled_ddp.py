"""A training step of two processes with a sample each, compiled as nnU-Net does: DistributedDataParallel around it.

Run as a script it is one of the processes; its arguments: rank, file to meet at, device type, backend, network, folder.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from compiled_steps import Graphs, difference, network_and_batch, training_step
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_mamba.architectures.blocks.state_space import operators_of

PROCESSES = 2


def assert_two_processes_do_what_one_does(folder: Path, name: str, device: str, backend: str) -> None:
    """Two processes with a sample each, compiled and in fp16, are as near to fp32 as steps on each, uncompiled.

    Args:
        folder: empty, for the processes.
        device: "cpu", by gloo, or "cuda", by NCCL with a GPU for each.
        backend: of :class:`Graphs`.
    """
    found = _run(folder, name, device, backend)
    network, *batch = network_and_batch(name, samples=PROCESSES)
    network, batch = network.to(device), [tensor.to(device) for tensor in batch]
    # Sample by sample, as norms over a batch would see another one here than there.
    samples = [[tensor[rank : rank + 1] for tensor in batch] for rank in range(PROCESSES)]
    exact = _mean([training_step(network, network, *sample, None) for sample in samples])
    eager = [training_step(network, network, *sample, torch.float16) for sample in samples]
    for result, alone in zip(found, eager, strict=True):
        on_device = {key: value.to(device) for key, value in result.items()}
        assert difference(on_device, exact) <= 1.5 * difference(_mean(eager), exact) + 1e-4
        assert all(torch.equal(result[key], found[0][key]) for key in result if key != "loss")
        torch.testing.assert_close(on_device["loss"], alone["loss"], rtol=1e-3, atol=0)
    assert found[0]["loss"] != found[1]["loss"]  # the samples differ


def _mean(steps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([step[key] for step in steps]).mean(0) for key in steps[0]}


def _run(folder: Path, name: str, device: str, backend: str) -> list[dict[str, Tensor]]:
    shared = [str(folder / "meeting_point"), device, backend, name, str(folder)]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), *shared],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    outputs = [process.communicate()[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return [torch.load(folder / f"{rank}.pt", weights_only=True, map_location="cpu") for rank in range(PROCESSES)]


def main(rank: int, meeting_point: str, device: str, backend: str, name: str, folder: str) -> None:
    torch.set_num_threads(1)
    on_gpu = device == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=PROCESSES
    )
    if on_gpu:
        torch.cuda.set_device(rank)
    network, image, labels = network_and_batch(name, samples=PROCESSES)
    network, sample = network.to(device), slice(rank, rank + 1)
    graphs = Graphs()
    compiled = torch.compile(network, backend=getattr(graphs, backend), fullgraph=True)
    # Buckets of 10 kB: several of them, between which torch cuts the graph to send gradients early.
    dist._DEFAULT_FIRST_BUCKET_BYTES = 10_000
    wrapped = DistributedDataParallel(compiled, device_ids=[rank] if on_gpu else None, bucket_cap_mb=0.01)
    image, labels = image[sample].to(device), labels[sample].to(device)
    result = training_step(network, wrapped, image, labels, torch.float16)
    graphs.assert_no_scan_twice()
    assert {*graphs.forward} - {"scan_order_table"} == operators_of(network)
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
