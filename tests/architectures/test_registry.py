"""What the registry of networks promises to those who iterate over it."""

from __future__ import annotations

import inspect
import re
import runpy
from dataclasses import replace

import pytest
import torch
from documentation import ROOT
from operator_calls import OperatorCalls
from registered_networks import OF_MONAI, ONE_OF_EACH_CLASS, fitting, own_stages, small_arguments
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunetv2_mamba import architectures
from nnunetv2_mamba.architectures.blocks.state_space import dtypes_of_operators, operators_of
from nnunetv2_mamba.architectures.contract import PlannedNetwork
from nnunetv2_mamba.architectures.registry import CONTROLS, NETWORKS, RegisteredNetwork, Variant, register
from nnunetv2_mamba.catalogue.networks import describe
from nnunetv2_mamba.ops.backend_selection import OPERATORS


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
def test_an_entry_is_complete(network):
    assert issubclass(network.network_class, PlannedNetwork)
    assert NETWORKS[network.network_class.__name__].network_class is network.network_class
    assert network.summary and network.training
    assert all(variant.summary for variant in network.variants.values())
    assert getattr(architectures, network.network_class.__name__) is network.network_class
    assert (ROOT / "docs" / "networks" / f"{network.page}.md").is_file()
    options = {*network.options, *network.small, *(key for one in network.variants.values() for key in one.options)}
    own = {*network.network_class.option_names()}
    assert options - {"features_per_stage"} <= own
    assert ("mixer" in own) != (network.name in OF_MONAI)  # every network of ours can do without what mixes
    parameters = inspect.signature(network.network_class.__init__).parameters
    assert {*network.network_class.PATCH_ARGUMENTS} <= {*parameters}
    if "mixer" in own:
        assert {suffix: network.variants[suffix].options for suffix in CONTROLS} == {
            suffix: control.options for suffix, control in CONTROLS.items()
        }


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
def test_it_is_named_in_the_documentation(network):
    """Its lists are filled by the hook of mkdocs.yml."""
    filled = runpy.run_path(str(ROOT / "mkdocs_registry.py"))["on_page_markdown"]
    for page, pattern in (
        ("index", rf"\(networks/{network.page}\.md\)"),
        ("planning", rf"\nNetworks: .*\b{network.name}\b"),
        ("trainers", rf"`nnUNetTrainer{network.name}`"),
    ):
        assert re.search(pattern, filled((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")))


STAGES = dict(
    input_channels=2, num_classes=3, n_stages=3, features_per_stage=[8, 16, 16], conv_op=nn.Conv3d,
    kernel_sizes=[[1, 3, 3], [1, 3, 3], [3, 3, 3]], strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
)  # fmt: skip

# A network of each class, and the variants of two, which have other mixers.
CALLING = [(name, {}) for name in ONE_OF_EACH_CLASS]
CALLING += [(name, each.options) for name in ("SegMamba", "MedSegMamba") for each in NETWORKS[name].variants.values()]


@pytest.mark.parametrize(("name", "options"), CALLING, ids=str)
def test_a_network_names_the_operators_that_it_calls_and_what_they_compute_in(name, options):
    """The training log and checkpoints say what computes each of them, and its kernel is checked for that type."""
    patch = fitting(name, own_stages(name, STAGES)["strides"], [32, 32, 32])
    arguments = small_arguments(name, STAGES, patch, **options)
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16), OperatorCalls() as calls:
        network = NETWORKS[name].network_class(**arguments)
        network(torch.empty(1, STAGES["input_channels"], *patch))
    assert operators_of(network) == {*calls.counts} - {"scan_order_table"} <= {*OPERATORS}
    tokens = {name: {given[0] for given in calls.dtypes[name]} for name in operators_of(network)}
    assert dtypes_of_operators(network, torch.bfloat16) == tokens


def test_every_folder_of_a_network_is_found():
    folders = {path.parent.name for path in (ROOT / "nnunetv2_mamba" / "architectures").glob("*/network.py")}
    assert folders <= {network.network_class.__module__.split(".")[2] for network in NETWORKS.values()}


def test_names_are_taken_once():
    with pytest.raises(ValueError, match="two networks are named SegMamba"):
        register(NETWORKS["SegMamba"])
    with pytest.raises(ValueError, match="two networks are named MedSegMamba"):
        register(replace(NETWORKS["SegMamba"], name="MedSegMamba"))
    assert NETWORKS["MedSegMamba"].network_class is architectures.MedSegMamba


def test_no_trainer_of_another_network_is_replaced():
    """The twin of a comparison would silently be another network."""
    toy = type("SegMambaConv", (architectures.UMambaBot,), {})
    with pytest.raises(ValueError, match="SegMambaConv and SegMamba would both have a trainer nnUNetTrainerSegMambaC"):
        register(RegisteredNetwork("SegMambaConv", toy, "of another package"))
    toy, bot = type("SegMam", (architectures.SegMamba,), {}), {"baBot": Variant("of another package")}
    with pytest.raises(ValueError, match="SegMam and SegMambaBot would both have a trainer nnUNetTrainerSegMambaBot"):
        register(RegisteredNetwork("SegMam", toy, "of another package", variants=bot))
    assert not {"SegMambaConv", "SegMam"} & set(NETWORKS)


def test_a_class_is_registered_under_its_own_name_first():
    """nnU-Net finds it by the path that a plan names, and our trainers by their name."""
    toy = type("Toy", (architectures.SegMamba,), {})
    with pytest.raises(ValueError, match="ToyNet is of the class Toy; register that under its own name first"):
        register(replace(NETWORKS["SegMamba"], name="ToyNet", network_class=toy))
    namesake = type("SegMamba", (architectures.SegMamba,), {})
    with pytest.raises(ValueError, match="Toy is of the class SegMamba; register that"):
        register(replace(NETWORKS["SegMamba"], name="Toy", network_class=namesake))
    assert not {"ToyNet", "Toy"} & set(NETWORKS)


def test_a_class_that_a_new_network_brings_is_found(monkeypatch):
    """Plans name it as ``nnunetv2_mamba.architectures.CLASS``."""
    toy = type("Toy", (architectures.SegMamba,), {})
    monkeypatch.setitem(NETWORKS, "Toy", replace(NETWORKS["SegMamba"], name="Toy", network_class=toy))
    assert architectures.Toy is toy


class OfOurs(architectures.UMambaEnc):
    """With an option more, and another default of one."""

    def __init__(self, *planned, depth=3, scan="hilbert", **planned_by_name):
        super().__init__(*planned, scan=scan, **planned_by_name)


def test_a_subclass_of_a_network_has_its_options_and_controls():
    ours = architectures.UMambaEnc.option_names()
    assert OfOurs.option_names() == [*ours, "depth"] and "patch_size" not in ours
    assert {name: OfOurs.options()[name].default for name in ("depth", "scan", "mixer")} == {
        "depth": 3, "scan": "hilbert", "mixer": "mamba",
    }  # fmt: skip
    entry = RegisteredNetwork("OfOurs", OfOurs, "of another package")
    assert entry.variants == NETWORKS["UMambaEnc"].variants
    arguments = describe(entry)["arguments"]
    assert list(arguments) == OfOurs.option_names() and arguments["scan"]["default"] == "hilbert"


class OfItsOwn(architectures.UMambaEnc):
    """What is not handed on is no option."""

    def __init__(self, input_channels, *, depth=3):
        raise NotImplementedError


def test_a_subclass_that_hands_nothing_on_has_its_own_options_only():
    assert OfItsOwn.option_names() == ["depth"]


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
def test_an_argument_that_a_network_has_not(network):
    arguments = dict(input_channels=1, n_stages=3, features_per_stage=8, conv_op=nn.Conv2d, kernel_sizes=3, strides=1)
    required = {name: (8, 8) for name in network.network_class.PATCH_ARGUMENTS if name == "patch_size"}
    name, (option, *_) = network.network_class.__name__, network.network_class.option_names()
    with pytest.raises(TypeError, match=f"{name} has no argument foo; its options are .*{option}"):
        network.network_class(**arguments, **required, num_classes=2, foo=1)


def small(name: str, patch_size: tuple[int, ...]) -> nn.Module:
    return NETWORKS[name].network_class(**small_arguments(name, STAGES, patch_size))


@pytest.mark.parametrize("name", NETWORKS)
def test_small_options_make_a_small_network(name):
    """The tests of the installation and of the code train it within seconds."""
    limit = 4_100_000 if name == "SwinUNETR" else 500_000  # of its narrowest
    assert sum(parameter.numel() for parameter in small(name, (6, 16, 20)).parameters()) < limit


@pytest.mark.parametrize("name", NETWORKS)
def test_input_that_does_not_fit_is_named(name):
    network = small(name, (6, 16, 20))
    depth, height, width = network.topology.total_stride
    for shape, message in (
        ((2, depth, height + 2, width), rf"axis 1 .* size {height + 2}; this .* multiple of {height}\b"),
        ((2, depth + 1, height, width), rf"axis 0 .* size {depth + 1}; this .* multiple of {depth}\b"),
        ((3, depth, height, width), "3 channels.* built for 2"),
        ((2, height, width), "5 axes"),
    ):
        with pytest.raises(ValueError, match=message):
            network(torch.empty(1, *shape))


@pytest.mark.parametrize("name", NETWORKS)
def test_one_voxel_at_the_lowest_resolution_is_computed_with_or_refused(name):
    network = small(name, (2, 4, 4))
    x = torch.randn(1, 2, *network.topology.total_stride)
    if network.takes_one_voxel:
        assert network(x).isfinite().all()
    else:
        with pytest.raises(ValueError, match="leaves one voxel at the bottleneck, which instance norm cannot"):
            network(x)


def test_teachers_of_msd_kmamba():
    variants = NETWORKS["MSDKMamba"].variants
    assert variants["EMATeacher"].recipe["teacher"] == "ema" and variants["FusedTeacher"].recipe["teacher"] == "fused"


def test_what_is_no_network():
    with pytest.raises(AttributeError, match="no attribute 'SegMamab'"):
        _ = architectures.SegMamab
