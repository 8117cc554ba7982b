"""What other packages register: found by entry points, checked, and refused where it does not fit."""

from __future__ import annotations

import re
import sys
from functools import partial
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_untrusted_plans import TOPOLOGY, plans_of

from nnunetv2_mamba import extensions, trainers
from nnunetv2_mamba.architectures import UMambaBot
from nnunetv2_mamba.architectures.blocks import scan_paths
from nnunetv2_mamba.architectures.blocks.mixers import MIXERS, register_mixer
from nnunetv2_mamba.architectures.contract import PlannedNetwork
from nnunetv2_mamba.architectures.origins import modules_of_parts
from nnunetv2_mamba.architectures.registry import NETWORKS, RegisteredNetwork, register
from nnunetv2_mamba.catalogue.trainers import list_trainers
from nnunetv2_mamba.doctor import computation, registration
from nnunetv2_mamba.ops.scan_order import morton, named_paths, serpentine, table
from nnunetv2_mamba.trainers import of_networks
from nnunetv2_mamba.untrusted.plans import check_untrusted_plans

REGISTRIES = (scan_paths.PATHS, named_paths._NAMED, NETWORKS, extensions.PROBLEMS)


@pytest.fixture(autouse=True)
def registries():
    """Leave them as they were."""
    before = [(registry, dict(registry)) for registry in REGISTRIES]
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)
    scan_paths.SCANS[:] = [name for name in scan_paths.SCANS if name in scan_paths.PATHS]


@pytest.fixture
def entry_points(monkeypatch):
    """Set the entry points of both groups."""

    def install(group: str, **values: str) -> None:
        entries = [EntryPoint(name, value, group) for name, value in values.items()]
        found = lambda group: [entry for entry in entries if entry.group == group]  # noqa: E731
        monkeypatch.setattr(extensions, "entry_points", found)
        monkeypatch.setattr(registration, "entry_points", found)

    return install


def columns_first(shape):
    return np.arange(np.prod(shape)).reshape(shape).T.ravel()


def test_a_scan_order():
    scan_paths.register_scan("mine", columns_first)
    assert table("mine", (2, 3)).tolist() == [[0, 3, 1, 4, 2, 5]]
    assert table("mine+reverse", (2, 3)).tolist() == [[0, 3, 1, 4, 2, 5], [5, 2, 4, 1, 3, 0]]
    assert table("mine", (2, 3)).dtype is torch.int32
    assert scan_paths.check_scan("mine+reverse") and scan_paths.scan_paths("mine").directions(3) == 1
    with pytest.raises(ValueError, match="random, mine, or one of them"):
        scan_paths.check_scan("nobodys")


def test_several_paths():
    scan_paths.register_scan("two", columns_first, lambda shape: np.arange(np.prod(shape)))
    assert table("two+reverse", (1, 2, 2)).shape == (4, 4)


@pytest.mark.parametrize(
    "path",
    [
        lambda length: np.arange(length) + 1,
        lambda length: np.arange(length) - 1,
        lambda length: np.zeros(length, dtype=int),
        lambda length: np.arange(length - 1),
        lambda length: np.arange(length, dtype=float),
        lambda length: np.arange(length)[None],
    ],
    ids=["too high", "negative", "twice", "too short", "floats", "two axes"],
)
def test_a_path_that_leaves_the_grid_never_reaches_a_kernel(path):
    scan_paths.register_scan("wild", lambda shape: path(int(np.prod(shape))))
    with pytest.raises(ValueError, match=r"wild does not visit every token of a grid \(3, 4\) once"):
        table("wild", (3, 4))


def test_a_path_may_be_a_view_and_change_later():
    kept = np.arange(6, dtype=np.int32)
    kept.flags.writeable = False
    scan_paths.register_scan("backwards", lambda shape: kept[::-1])
    assert table("backwards", (2, 3)).tolist() == [[5, 4, 3, 2, 1, 0]]
    changing = np.arange(6, dtype=np.int32)
    scan_paths.register_scan("changing", lambda shape: changing[: np.prod(shape)])
    paths = table("changing", (2, 3))
    changing[:] = 7
    assert paths.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_an_order_that_fails_is_named():
    def of_volumes(shape):
        planes, rows, columns = shape
        return np.arange(planes * rows * columns)

    scan_paths.register_scan("volumes", of_volumes)
    assert table("volumes", (1, 2, 3)).shape == (1, 6)
    with pytest.raises(ValueError, match=r"the scan order volumes fails on a grid \(2, 3\): ValueError: not enough"):
        table("volumes", (2, 3))


@pytest.mark.parametrize(
    ("name", "orders", "message"),
    [
        ("hilbert", [columns_first], "two scan orders are named hilbert"),
        ("serpentine", [columns_first], "two scan orders are named serpentine"),
        ("ss3d", [columns_first], "two scan orders are named ss3d"),
        ("a+reverse", [columns_first], "must be letters"),
        ("aB", [columns_first], "must be letters"),
        ("none", [], "has no paths"),
    ],
)
def test_scan_orders_that_are_refused(name, orders, message):
    before = list(scan_paths.PATHS)
    with pytest.raises(ValueError, match=message):
        scan_paths.register_scan(name, *orders)
    assert list(scan_paths.PATHS) == before


def test_modules_are_imported_and_a_broken_one_is_named(entry_points, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_part.py").write_text("raise OSError('no disk')")
    (tmp_path / "whole_part.py").write_text("LOADED = True")
    entry_points(extensions.PARTS, a="broken_part", b="whole_part")
    with pytest.warns(RuntimeWarning, match="its module broken_part cannot be loaded: OSError: no disk"):
        extensions.load_parts()
    assert sys.modules.pop("whole_part").LOADED
    findings = {finding.text: finding.remedy for finding in registration.extensions()}
    assert findings == {
        "whole_part: whole_part is loaded": None,
        "broken_part: broken_part is not loaded: OSError: no disk": "repair or uninstall that package",
    }


def test_a_module_that_imports_the_trainers_too_early_is_named(entry_points, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "early_part.py").write_text("import nnunetv2_mamba.trainers")
    entry_points(extensions.PARTS, a="early_part")
    monkeypatch.delitem(sys.modules, "nnunetv2_mamba.trainers")
    with pytest.warns(RuntimeWarning, match="it imports nnunetv2_mamba.trainers"):
        extensions.load_parts()
    sys.modules["nnunetv2_mamba.trainers"] = trainers


def test_trainers_are_imported_when_asked_for(entry_points, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_trainers.py").write_text(
        "from nnunetv2_mamba.trainers import nnUNetTrainerUMambaBot\n"
        "class nnUNetTrainerMine(nnUNetTrainerUMambaBot): pass\n"
    )
    entry_points(
        extensions.TRAINERS, nnUNetTrainerMine="my_trainers:nnUNetTrainerMine", nnUNetTrainerNone="no_module:x"
    )
    assert "nnUNetTrainerMine" in dir(trainers) and "my_trainers" not in sys.modules
    with pytest.raises(AttributeError, match="nnUNetTrainerNobodys"):
        _ = trainers.nnUNetTrainerNobodys
    mine = trainers.__getattr__.__wrapped__("nnUNetTrainerMine")
    assert mine is sys.modules["my_trainers"].nnUNetTrainerMine
    shorter = trainers.__getattr__.__wrapped__("nnUNetTrainerMine_5epochs")
    assert issubclass(shorter, mine) and shorter.recipe.num_epochs == 5
    with pytest.raises(ImportError, match="nnUNetTrainerNone .*no_module:x.* ModuleNotFoundError: No module named"):
        _ = trainers.nnUNetTrainerNone


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nowhere:nnUNetTrainerBad", r"ModuleNotFoundError: No module named 'nowhere'"),
        ("faulty_trainers:nnUNetTrainerBed", "AttributeError: module 'faulty_trainers' has no attribute"),
        ("faulty_trainers", "is no class; its entry point must be MODULE:CLASS"),
        ("faulty_trainers:nnUNetTrainerOther", "is the class nnUNetTrainerOther; its entry point must have that name"),
    ],
)
def test_a_trainer_that_nnunet_could_not_use_is_named(value, message, entry_points, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "faulty_trainers.py").write_text("class nnUNetTrainerOther: pass")
    entry_points(extensions.TRAINERS, nnUNetTrainerBad=value)
    problem = rf"the trainer nnUNetTrainerBad of .* \({value}\) .*{message}"
    with pytest.raises(ImportError, match=problem):  # no AttributeError, at which nnU-Net would look elsewhere
        _ = trainers.nnUNetTrainerBad
    entries, problems = list_trainers("UMambaBot")
    assert entries and len(problems) == 1 and re.match(problem, problems[0])
    (finding,) = registration.extensions()
    assert re.match(problem, finding.text) and finding.remedy == "repair or uninstall that package"


@pytest.mark.parametrize(
    ("taken", "owner"), [("nnUNetTrainerUMambaBot", "nnunetv2-mamba"), ("nnUNetTrainerAdam", "nnunetv2 ")]
)
def test_a_trainer_whose_name_is_taken_is_not_said_to_be_found(taken, owner, entry_points, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"hidden_{taken}.py").write_text(f"class {taken}: pass")
    entry_points(extensions.TRAINERS, **{taken: f"hidden_{taken}:{taken}"})
    entries, problems = list_trainers(taken)
    assert entries[0].name == taken and entries[0].origin.startswith(owner)
    assert len(problems) == 1 and f"nnU-Net finds that of {owner}" in problems[0] and taken in problems[0]
    (finding,) = registration.extensions()
    assert f"nnU-Net finds another {taken}" in finding.text and finding.remedy


def test_the_package_of_a_network(entry_points):
    entry_points(extensions.PARTS, a="theirs.network")
    assert extensions.package_with("theirs.blocks.deep") == "theirs.network"  # of an entry point without a package
    assert extensions.package_with("theirs_too.network") is None


def test_one_name_of_two_packages(monkeypatch):
    entries = [
        SimpleNamespace(name="nnUNetTrainerTwice", dist=SimpleNamespace(name=package, version="1"))
        for package in ("first", "second")
    ]
    monkeypatch.setattr(extensions, "entry_points", lambda group: entries)
    with pytest.raises(ValueError, match="nnUNetTrainerTwice: first 1 and second 1; uninstall one of them"):
        extensions.installed_trainers()


class Elsewhere(UMambaBot):
    """A network of another package."""


def test_plans_name_a_network_that_is_registered_and_no_other():
    plans = plans_of(
        {
            "network_class_name": "nnunetv2_mamba.architectures.Elsewhere",
            "arch_kwargs": TOPOLOGY,
            "_kw_requires_import": ["conv_op"],
        }
    )
    with pytest.raises(ValueError, match="no network of .*; if it is another package's, install that here"):
        check_untrusted_plans(plans, "plans.json")
    register(RegisteredNetwork("Elsewhere", Elsewhere, "of another package"))
    assert NETWORKS["Elsewhere"].module == __name__
    check_untrusted_plans(plans, "plans.json")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"recipe": {"learning_rate": 1e-3}}, "unexpected keyword argument 'learning_rate'"),
        ({"recipe": {"optimizer": "adam"}}, "optimizer must be one of 'sgd', 'adamw', got 'adam'"),
        ({"variants": {"Wide": {"d_state": 64}}}, "'dict' object has no attribute"),
    ],
)
def test_an_entry_of_which_no_trainers_can_be_made_takes_no_others_away(entry, message, entry_points):
    NETWORKS["Elsewhere"] = RegisteredNetwork("Elsewhere", Elsewhere, "", module="theirs.network", **entry)
    entry_points(extensions.PARTS)
    with pytest.raises((AttributeError, TypeError, ValueError), match=message):  # of a network that is of no package
        of_networks.trainers_of_all()
    entry_points(extensions.PARTS, a="theirs.mixer", b="theirs.network")
    with pytest.warns(RuntimeWarning, match=f"module theirs.network .* the trainers of Elsewhere: .*{message}"):
        made = of_networks.trainers_of_all()
    assert made.keys() == of_networks.TRAINERS.keys() and "Elsewhere" not in NETWORKS
    (problem, loaded) = sorted(registration.extensions(), key=lambda finding: finding.remedy is None)
    assert "theirs.network is not loaded: the trainers of Elsewhere" in problem.text and loaded.remedy is None


class WithoutMixer(PlannedNetwork):
    """Nothing in it can be done without."""

    def __init__(self, *planned, dropout=0.0, **planned_by_name):
        super().__init__(*planned, **planned_by_name)


def test_controls_are_of_networks_with_a_mixer():
    assert RegisteredNetwork("Elsewhere", Elsewhere, "").variants.keys() == {"NoMamba", "Conv", "Mamba2"}
    assert RegisteredNetwork("WithoutMixer", WithoutMixer, "").variants == {}


def test_what_is_no_network_is_not_registered():
    with pytest.raises(ValueError, match="the network Conv3d is no subclass of PlannedNetwork"):
        RegisteredNetwork("Conv3d", torch.nn.Conv3d, "of torch")


class Raising(PlannedNetwork):
    """Its constructor fails."""

    def __init__(self, *planned, **planned_by_name):
        raise RuntimeError("no such layer")


def test_doctor_names_a_network_that_cannot_be_built_and_goes_on(monkeypatch):
    entries = {"Raising": RegisteredNetwork("Raising", Raising, ""), "UMambaBot": NETWORKS["UMambaBot"]}
    monkeypatch.setattr("nnunetv2_mamba.architectures.registry.NETWORKS", entries)
    failed, works = computation.networks(torch.device("cpu"))
    assert (failed.subject, failed.text) == ("Raising on cpu", "RuntimeError: no such layer") and failed.remedy
    assert works.subject == "UMambaBot on cpu" and works.remedy is None


@pytest.mark.parametrize("mixer", [torch.nn.Linear, lambda options: None], ids=["module", "function"])
def test_what_is_no_mixer_is_not_registered(mixer):
    with pytest.raises(ValueError, match="the mixer mine is no subclass of SequenceMixer"):
        register_mixer("mine")(mixer)
    assert "mine" not in MIXERS


ORDERS = {"mine": columns_first, "ours": morton, "partial": partial(serpentine, axes=(1, 0))}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_the_modules_of_parts(order):
    """A scan order is of the module that registers it, which a container would lack; its functions may be ours."""
    scan_paths.register_scan("mine", order)
    modules = modules_of_parts(Elsewhere, {"scan": "mine", "mixer": "mamba2", "d_state": 16})
    assert modules == {
        "network Elsewhere": __name__,
        "scan order mine": __name__,
        "mixer mamba2": "nnunetv2_mamba.architectures.blocks.mixers.mamba2",
    }
    assert modules_of_parts(torch.nn.Conv3d, {"scan": "mine"}) == {}
