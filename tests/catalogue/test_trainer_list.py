"""The list of trainers: what nnU-Net's search finds, no more and no less, with what it costs."""

from __future__ import annotations

import json
import os

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from tiny_dataset import DATASET_ID

from nnunetv2_mamba import cli, extensions
from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.benchmark.flops import forward_flops
from nnunetv2_mamba.catalogue.cost import Cost, Costs
from nnunetv2_mamba.catalogue.plan import read_plan
from nnunetv2_mamba.catalogue.trainers import TrainerEntry, list_trainers
from nnunetv2_mamba.memory.estimate import plan_memory
from nnunetv2_mamba.nnunet.trainer_search import all_trainers, find_trainer
from nnunetv2_mamba.trainers import FULL_LENGTH

MINE = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
class nnUNetTrainerMine(nnUNetTrainer):
    def _build_loss(self): return super()._build_loss()
class nnUNetTrainerSegMamba(nnUNetTrainer): pass
class nnUNetTrainerByNameOnly: pass
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder of the user's that hides one of our trainers."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join((str(tmp_path), DISCOVERY)))
    return tmp_path


@pytest.fixture
def broken(mine):
    """The same with a module that cannot be imported."""
    (mine / "sub").mkdir()
    (mine / "sub" / "__init__.py").touch()
    (mine / "sub" / "broken.py").write_text("import no_such_package")


def by_name(entries: list[TrainerEntry]) -> dict[str, TrainerEntry]:
    return {entry.name: entry for entry in entries}


def test_what_is_listed_is_what_the_search_gives(mine):
    found = all_trainers().trainers
    for name in ("nnUNetTrainer", "nnUNetTrainerNoMirroring", "nnUNetTrainerMine", "nnUNetTrainerSegMamba"):
        assert (find_trainer(name).__name__, find_trainer(name).__module__) == (name, found[name][0].__module__)
    assert found["nnUNetTrainerSegMamba"][1] == found["nnUNetTrainerMine"][1] == str(mine)
    assert found["nnUNetTrainerMedSegMamba_5epochs"][0] is find_trainer("nnUNetTrainerMedSegMamba_5epochs")
    assert found["nnUNetTrainer"] == (nnUNetTrainer, "nnunetv2")
    assert found.keys() >= FULL_LENGTH.keys() and "nnUNetTrainerByNameOnly" not in found


def test_a_module_that_fails_hides_what_comes_after_it(broken):
    assert find_trainer("nnUNetTrainerMine") and find_trainer("nnUNetTrainerNoMirroring")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        find_trainer("nnUNetTrainerMedSegMamba")
    assert "nnUNetTrainerMedSegMamba" in all_trainers().trainers


def test_entries(mine, broken, monkeypatch):
    monkeypatch.setitem(extensions.PROBLEMS, "other 1.0: other.network", "ImportError: why")
    entries, problems = list_trainers()
    named = by_name(entries)
    assert named["nnUNetTrainerMine"].recipe == "overrides _build_loss"
    assert (named["nnUNetTrainerMine"].network, named["nnUNetTrainerMine"].origin) == ("the plan's", str(mine))
    assert named["nnUNetTrainerSegMambaNoMamba"].network == "SegMamba mixer=none"
    assert named["nnUNetTrainerSegMambaBot"].network == "SegMambaBot"
    assert named["nnUNetTrainerUMambaBot"].recipe == named["nnUNetTrainer"].recipe == "nnU-Net's"
    assert named["nnUNetTrainerSwinUNETR"].recipe.startswith("optimizer='adamw', initial_lr=0.0001")
    assert "_5epochs" in named["nnUNetTrainerUMambaBot"].lengths
    assert "nnUNetTrainerUMambaBot_5epochs" not in named and "nnUNetTrainer_5epochs" in named
    assert named["nnUNetTrainer"].origin.startswith("nnunetv2 2.")
    assert (
        len(problems) == 2
        and "broken.py, where nnU-Net's search ends" in problems[0]
        and "other.network" in problems[1]
    )


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("UNETR", {"nnUNetTrainerUNETR", "nnUNetTrainerSwinUNETR"}),
        ("*UMamba2", {"nnUNetTrainerUMamba2"}),
        ("nnUNetTrainer?ine", {"nnUNetTrainerMine"}),
    ],
)
def test_patterns(mine, pattern, names):
    assert by_name(list_trainers(pattern)[0]).keys() == names


def test_costs(tiny_dataset):
    plan = read_plan("tinySegMambaPlans", "3d_fullres", DATASET_ID)
    costs = Costs(plan)
    stock, ours = costs.of(nnUNetTrainer), costs.of(FULL_LENGTH["nnUNetTrainerSegMamba"])
    assert stock == ours  # one network, by the plan or by the trainer
    assert costs.of(find_trainer("nnUNetTrainerNoMirroring")) is stock
    training, _ = plan_memory(plan.plans, "3d_fullres", plan.dataset_json)
    assert ours.training_bytes == training.total
    assert ours.flops == forward_flops(nnUNetTrainer, plan.plans, "3d_fullres", plan.dataset_json)
    manager = plan.plans.get_configuration("3d_fullres")
    network = nnUNetTrainer.build_network_architecture(plan.plans, manager, 2, 3, True)
    assert ours.parameters == sum(parameter.numel() for parameter in network.parameters())
    without = costs.of(FULL_LENGTH["nnUNetTrainerSegMambaNoMamba"])
    assert without.parameters < ours.parameters and without.flops < ours.flops


def test_a_network_that_does_not_take_the_plan(tiny_dataset):
    class nnUNetTrainerOfNothing(nnUNetTrainer):
        @staticmethod
        def build_network_architecture(*args, **kwargs):
            raise ValueError("takes patches of 7 voxels only")

    plan = read_plan("nnUNetPlans", "2d", DATASET_ID)
    assert Costs(plan).of(nnUNetTrainerOfNothing) == "ValueError: takes patches of 7 voxels only"


def test_a_trainer_written_for_an_older_nnunet(tiny_dataset):
    class nnUNetTrainerOlder(nnUNetTrainer):
        @staticmethod
        def build_network_architecture(name, arguments, imports, channels, outputs, enable_deep_supervision=True):
            return get_network_from_plans(
                name, arguments, imports, channels, outputs, deep_supervision=enable_deep_supervision
            )

    costs = Costs(read_plan("tinyUMambaBotPlans", "3d_fullres", DATASET_ID))
    assert isinstance(costs.of(nnUNetTrainerOlder), Cost) and costs.of(nnUNetTrainerOlder) == costs.of(nnUNetTrainer)


def test_the_verb(mine, broken, tiny_dataset, capsys, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join((str(mine), DISCOVERY)))
    plans = tiny_dataset.preprocessed / "Dataset901_Tiny" / "tinyUMambaBotPlans.json"
    assert cli.main(["trainers", "UMambaBot", "-p", str(plans)]) == 0
    captured = capsys.readouterr()
    title, first, *others = captured.out.splitlines()
    assert title.split() == ["trainer", "network", "parameters", "GFLOP", "GiB", "origin", "recipe"]
    assert first.split()[0] == "nnUNetTrainerUMambaBot" and len(others) == 3
    assert "not listed" in captured.err and "broken.py" in captured.err
    assert cli.main(["trainers", "*UMambaBot", "-d", str(DATASET_ID), "-p", "tinyUMambaBotPlans", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert f"{document['trainers'][0]['cost']['parameters']:,}" in first
    assert cli.main(["trainers", "*UMambaBot", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trainers"][0]["cost"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainers", "NoSuchNetwork"], "nnU-Net finds no trainer 'NoSuchNetwork'"),
        (["trainers", "-d", "901"], "give their name with -p"),
        (["trainers", "-c", "2d"], "give the plans with -p"),
        (["trainers", "-p", "no_such_file.json"], "there is no no_such_file.json; give -p"),
        (["trainers", "-d", "901", "-p", "tinySegMambaPlans", "-c", "3d_lowres"], "has no configuration 3d_lowres"),
        (["networks", "SegMamab"], "no network 'SegMamab'; there are"),
        (["networks", "-p", "plans.json"], "-p needs the NAME of a network"),
    ],
)
def test_mistakes(arguments, message, tiny_dataset, capsys):
    assert cli.main(arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "description",
    [{}, {"channel_names": 3, "labels": {"background": 0}}, {"channel_names": {"0": "a"}, "labels": 3}],
    ids=range(3),
)
def test_a_data_set_that_nnunet_does_not_understand_is_named(tiny_dataset, tmp_path, description):
    (tmp_path / "plans.json").write_text(json.dumps(tiny_dataset.plans("nnUNetPlans")))
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"dataset.json is no dataset.json of nnU-Net: \w+Error"):
        read_plan(str(tmp_path / "plans.json"), "3d_fullres")


@pytest.mark.filterwarnings("error")
def test_plans_without_a_network_are_named(tiny_dataset, tmp_path):
    plans = tiny_dataset.plans("nnUNetPlans")
    del plans["configurations"]["3d_fullres"]["architecture"]
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    (tmp_path / "dataset.json").write_text(json.dumps(tiny_dataset.dataset_json()))
    with pytest.raises(ValueError, match="plans.json holds no plans of nnU-Net: KeyError: 'UNet_class_name'"):
        read_plan(str(tmp_path / "plans.json"), "3d_fullres")
