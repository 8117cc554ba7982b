"""What the registry of networks promises to those who iterate over it."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
from documentation import ROOT
from torch import nn

from nnunetv2_mamba import architectures
from nnunetv2_mamba.architectures.contract import PlannedNetwork
from nnunetv2_mamba.architectures.registry import CONTROLS, NETWORKS, register


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
def test_an_entry_is_complete(network):
    assert issubclass(network.network_class, PlannedNetwork)
    assert getattr(architectures, network.network_class.__name__) is network.network_class
    assert (ROOT / "docs" / "networks" / f"{network.page}.md").is_file()
    options = {*network.options, *network.small, *(key for one in network.variants.values() for key in one.options)}
    assert options | {"mixer"} <= {*network.network_class.option_names()}
    parameters = inspect.signature(network.network_class.__init__).parameters
    assert {*network.network_class.PATCH_ARGUMENTS} <= {*parameters}
    assert {suffix: network.variants[suffix].options for suffix in CONTROLS} == {
        suffix: control.options for suffix, control in CONTROLS.items()
    }


def test_every_folder_of_a_network_is_found():
    folders = {path.parent.name for path in (ROOT / "nnunetv2_mamba" / "architectures").glob("*/network.py")}
    assert folders <= {network.network_class.__module__.split(".")[2] for network in NETWORKS.values()}


def test_names_are_taken_once():
    with pytest.raises(ValueError, match="two networks are named SegMamba"):
        register(NETWORKS["SegMamba"])
    with pytest.raises(ValueError, match="two networks are named MedSegMamba"):
        register(replace(NETWORKS["SegMamba"], name="MedSegMamba"))
    assert NETWORKS["MedSegMamba"].network_class is architectures.MedSegMamba


def test_a_class_that_a_new_network_brings_is_found(monkeypatch):
    """Plans name it as ``nnunetv2_mamba.architectures.CLASS``."""
    toy = type("Toy", (architectures.SegMamba,), {})
    monkeypatch.setitem(NETWORKS, "Toy", replace(NETWORKS["SegMamba"], name="Toy", network_class=toy))
    assert architectures.Toy is toy


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
def test_an_argument_that_a_network_has_not(network):
    arguments = dict(input_channels=1, n_stages=3, features_per_stage=8, conv_op=nn.Conv2d, kernel_sizes=3, strides=1)
    required = {name: (8, 8) for name in network.network_class.PATCH_ARGUMENTS if name == "patch_size"}
    name = network.network_class.__name__
    with pytest.raises(TypeError, match=f"{name} has no argument foo; its options are .*mixer"):
        network.network_class(**arguments, **required, num_classes=2, foo=1)


def test_teachers_of_msd_kmamba():
    variants = NETWORKS["MSDKMamba"].variants
    assert variants["EMATeacher"].recipe["teacher"] == "ema" and variants["FusedTeacher"].recipe["teacher"] == "fused"


def test_what_is_no_network():
    with pytest.raises(AttributeError, match="no attribute 'SegMamab'"):
        _ = architectures.SegMamab
