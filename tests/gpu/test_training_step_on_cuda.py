"""What users run by default on a GPU: compiled training steps in fp16 with a scaled loss, on one GPU and on two."""

import os
import sys

import pytest
import torch
from compiled_ddp import assert_two_processes_do_what_one_does
from compiled_steps import Graphs, difference, network_and_batch, training_step

NETWORKS = ("SegMamba", "MedSegMamba", "UMambaBot", "UMamba2")
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def on_gpu(name: str, device: str = "cuda"):
    network, *batch = network_and_batch(name)
    return network.to(device), [tensor.to(device) for tensor in batch]


@pytest.mark.parametrize("name", NETWORKS)
def test_compiled_in_fp16_with_a_scaled_loss(name):
    network, batch = on_gpu(name)
    exact = training_step(network, network, *batch, None)
    eager = training_step(network, network, *batch, torch.float16)
    graphs = Graphs()
    compiled = torch.compile(network, backend=graphs.inductor, fullgraph=True)
    actual = training_step(network, compiled, *batch, torch.float16)
    assert difference(actual, exact) <= 1.5 * difference(eager, exact) + 1e-4
    graphs.assert_no_scan_twice()


def test_cuda_graphs():
    """Captured and replayed; the first runs record."""
    network, batch = on_gpu("SegMamba")
    eager = training_step(network, network, *batch, torch.float16)
    exact = training_step(network, network, *batch, None)
    compiled = torch.compile(network, mode="reduce-overhead", fullgraph=True)
    for _ in range(4):
        torch.compiler.cudagraph_mark_step_begin()
        actual = training_step(network, compiled, *batch, torch.float16)
        assert difference(actual, exact) <= 1.5 * difference(eager, exact) + 1e-4


@needs_two
def test_a_gpu_that_is_not_the_current_one():
    first, batch = on_gpu("SegMamba", "cuda:0")
    expected = training_step(first, first, *batch, torch.float16)
    second, batch = on_gpu("SegMamba", "cuda:1")
    assert torch.cuda.current_device() == 0
    actual = {name: value.to("cuda:0") for name, value in training_step(second, second, *batch, torch.float16).items()}
    assert difference(actual, expected) <= 1e-2  # GPUs of different kinds round differently


@needs_two
@pytest.mark.parametrize("name", ["SegMamba", "MedSegMamba"])
def test_two_gpus(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert_two_processes_do_what_one_does(tmp_path, name, "cuda", "inductor")
