"""Plans by nnU-Net's rules for our networks, and the command that makes them."""

import json
import math
import os
import pydoc
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_dataset import DATASET_ID, NAME
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunetv2_mamba import architectures
from nnunetv2_mamba.architectures import SegMamba
from nnunetv2_mamba.architectures.registry import NETWORKS
from nnunetv2_mamba.memory.estimate import GIB, MemoryEstimate, plan_memory, usable_bytes
from nnunetv2_mamba.planning import batch_search, command
from nnunetv2_mamba.planning.planners import PLANNERS, MambaPlanner
from nnunetv2_mamba.planning.raw_files import Case
from nnunetv2_mamba.trainers import nnUNetTrainerSegMamba

INVENTED = "Dataset902_Invented"


class nnUNetTrainerTiny(nnUNetTrainerSegMamba):
    """SegMamba without what takes long to trace."""

    network_options = {"n_tom_layers_per_stage": 1, "mixer": "none"}


class TinyPlanner(MambaPlanner):
    trainer = nnUNetTrainerTiny
    max_pool = 3


@pytest.fixture
def invented_dataset(tmp_path, monkeypatch):
    """A data set of 20 scans of 320 voxels per axis that nobody took: description and fingerprint."""
    raw, preprocessed = tmp_path / "raw" / INVENTED, tmp_path / "preprocessed" / INVENTED
    raw.mkdir(parents=True)
    preprocessed.mkdir(parents=True)
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "a": 1, "b": 2},
        "numTraining": 20,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {f"case_{i}": {"images": [f"i{i}.nii.gz"], "label": f"l{i}.nii.gz"} for i in range(20)},
    }
    fingerprint = {
        "spacings": [[1.0, 1.0, 1.0]] * 20,
        "shapes_after_crop": [[320, 320, 320]] * 20,
        "foreground_intensity_properties_per_channel": {"0": {"mean": 0.0, "std": 1.0}},
        "median_relative_size_after_cropping": 1.0,
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.parent))
    return preprocessed


@pytest.fixture
def tiny_planner(monkeypatch):
    monkeypatch.setitem(PLANNERS, "Tiny", TinyPlanner)


@pytest.fixture
def preprocessed_now(monkeypatch) -> list:
    """The configurations that the command has preprocessed, without doing it."""
    names = []
    monkeypatch.setattr(
        command, "preprocess_dataset", lambda _, plans, configurations, counts: names.extend(configurations)
    )
    return names


def test_a_network_that_cannot_be_built_is_named(invented_dataset, monkeypatch):
    class Refusing(SegMamba):
        def __init__(self, *planned, **options):
            raise ValueError("no number of heads")

    class RefusingPlanner(MambaPlanner):
        trainer = type("nnUNetTrainerMine", (nnUNetTrainerSegMamba,), {"network_class": Refusing})

    monkeypatch.setattr(architectures, "Refusing", Refusing, raising=False)
    patch = r"\d+ x \d+ x \d+"
    with pytest.raises(
        ValueError, match=f"^Mine 3d_fullres: Refusing on .* {patch} .* ValueError: no number of heads$"
    ):
        RefusingPlanner(902).get_plans_for_configuration(np.ones(3), np.full(3, 32), "Mine_3d_fullres", 1e6, {})


def test_every_configuration_is_planned_and_builds_in_the_stock_trainer(invented_dataset):
    planner = TinyPlanner(902, 8)
    planner.plan_experiment()
    plans = PlansManager(str(invented_dataset / "nnUNetTinyPlans.json"))
    assert set(plans.available_configurations) == {"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"}
    assert list(invented_dataset.glob(".partial-*")) == []
    for name in ("2d", "3d_fullres", "3d_lowres"):
        plan = plans.get_configuration(name)
        assert plan.batch_size >= 2
        training, prediction = plan_memory(plans, name, planner.dataset_json)
        assert prediction.total < training.total <= usable_bytes(8)
        with FakeTensorMode():
            network = nnUNetTrainer.build_network_architecture(plans, plan, 1, 3, True)
        assert type(network) is architectures.SegMamba
        assert network.topology.n_stages == 4  # max_pool, where nnU-Net's rules would give more
    assert plans.get_configuration("3d_fullres").data_identifier == "nnUNetPlans_3d_fullres"
    assert plans.get_configuration("3d_lowres").data_identifier == "nnUNetTinyPlans_3d_lowres"


# Stages of a patch of 128 x 128 x 128, and their widths: the papers', or nnU-Net's own six up to its 320.
NNUNETS = [32, 64, 128, 256, 320, 320]
STAGES = {
    "SegMamba": [48, 96, 192, 384, 768],
    "MedSegMamba": [32, 64, 128, 256],
    "SegMambaBot": [32, 64, 128, 256],
    "TABSurfer": [32, 64, 128, 256],
    "MSDKMamba": NNUNETS,
    "UMambaBot": NNUNETS,
    "UMambaEnc": NNUNETS,
    "UMamba2": NNUNETS,
    "UNETR": [16, 32, 64, 128, 768],
    "SwinUNETR": [48, 48, 96, 192, 384, 768],
    "MedNeXtL": [32, 64, 128, 256, 512],
    "SegResNet": [32, 64, 128, 256],
    "SegResNetDS": [32, 64, 128, 256, 512],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_a_planner_that_follows_its_rule(invented_dataset, name):
    planner, network = PLANNERS[name](902), NETWORKS[name]
    architecture = planner.search_of("3d_fullres", (1.0, 1.0, 1.0)).architecture((128, 128, 128))
    assert architecture["arch_kwargs"]["n_stages"] == min(6, 6 if network.max_pool is None else network.max_pool + 1)
    named = pydoc.locate(architecture["network_class_name"])
    assert named is network.network_class and type(planner).__name__ == f"nnUNetPlanner{name}"


@pytest.mark.parametrize("name", STAGES)
def test_stages_and_widths_of_the_real_planners(invented_dataset, name):
    planner = PLANNERS[name](902)
    assert planner.plans_identifier == f"nnUNet{name}Plans"
    architecture = planner.search_of("3d_fullres", (1.0, 1.0, 1.0)).architecture((128, 128, 128))
    arguments = architecture["arch_kwargs"]
    n_stages = len(STAGES[name])
    assert arguments["features_per_stage"] == STAGES[name] and arguments["n_stages"] == n_stages
    assert np.array_equal(arguments["strides"], [[1, 1, 1], *[[2, 2, 2]] * (n_stages - 1)])
    assert np.array_equal(arguments["kernel_sizes"], [[3, 3, 3]] * n_stages)
    network = {"SegMambaBot": "MedSegMamba", "TABSurfer": "MedSegMamba", "MedNeXtL": "MedNeXt"}.get(name, name)
    assert architecture["network_class_name"] == f"nnunetv2_mamba.architectures.{network}"
    options = {
        "SegMambaBot": {"bottleneck": "tom"}, "TABSurfer": {"bottleneck": "transformer"}, "MedNeXtL": {"size": "L"},
    }.get(name, {})  # fmt: skip
    assert options.items() <= arguments.items()


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 1.0, 1.0)])
def test_more_memory_never_gives_less(invented_dataset, spacing):
    shape = np.array([320 // spacing[0], 320, 320])
    plans = [
        TinyPlanner(902, gpu_memory).get_plans_for_configuration(
            np.array(spacing), shape, "Tiny_3d_fullres", 20 * shape.prod(), {}
        )
        for gpu_memory in (4, 8, 24)
    ]
    patches = [int(np.prod(plan["patch_size"])) for plan in plans]
    batches = [patch * plan["batch_size"] for patch, plan in zip(patches, plans, strict=True)]
    assert patches == sorted(patches) and patches[0] < patches[-1]
    assert batches == sorted(batches)


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """What memory is asked for: architecture, batch, patch and optimiser.

    2 GiB of weights and optimiser, 0.1 GiB besides, and 0.5 GiB for every sample of 64 x 64 x 64 voxels.
    """
    found = []

    def memory(architecture, input_shape, classes, optimizer):
        found.append((architecture, input_shape[0], input_shape[2:], optimizer))
        return MemoryEstimate(GIB, GIB // 10, GIB, math.prod(input_shape) * GIB // (2 * 64**3), 0)

    monkeypatch.setattr(batch_search, "architecture_memory", memory)
    return found


def test_the_largest_batch_fits_and_the_next_does_not(invented_dataset, asked):
    """In the 6.7 GiB of 8 that are planned with by default; what is far too large is not traced."""
    search = TinyPlanner(902).search_of("3d_fullres", (1.0, 1.0, 1.0))
    found = {size: search.largest_batch((size,) * 3) for size in (64, 96, 112, 128)}
    assert found == {64: 9, 96: 2, 112: 0, 128: 0}  # 2.1 + 9 x 0.5, 2.1 + 2 x 1.69, 2.1 + 2 x 2.68 GiB
    assert {patch[0] for _, _, patch, _ in asked} == {32, 64, 96, 112}


def test_memory_is_that_of_the_networks_own_optimiser(invented_dataset, asked):
    planner = PLANNERS["MedSegMamba"](902)
    planner.search_of("3d_fullres", (1.0, 1.0, 1.0)).largest_batch((64, 64, 64))
    assert {optimizer for *_, optimizer in asked} == {"adamw"}


def test_plans_to_match_say_memory_and_share_of_the_data_set(invented_dataset, asked):
    """As nnU-Net trains them, by SGD; those of 3d_fullres where they lack a configuration."""
    sizes = {"2d": (50, [64, 64]), "3d_fullres": (12, [40, 56, 40])}

    def configuration(name):
        batch, patch = sizes[name]
        return SimpleNamespace(batch_size=batch, patch_size=patch, configuration={"architecture": name})

    match = SimpleNamespace(available_configurations=[*sizes], get_configuration=configuration)
    search = PLANNERS["MedSegMamba"](902, match=match).search_of("3d_lowres", (2.0, 2.0, 2.0))
    assert asked == [("3d_fullres", 12, (40, 56, 40), "sgd")]
    assert search.budget == pytest.approx((2.1 + 12 * 0.5 * 40 * 56 * 40 / 64**3) * GIB, rel=1e-6)
    assert search.share_of_data_set(10 * 40 * 56 * 40) == pytest.approx(1.2)
    assert search.share_of_data_set(1e12) == 0.05  # nnU-Net's


@pytest.mark.parametrize(
    ("patch", "image", "tiny"),
    [
        ((32, 32, 32), (320, 320, 320), False),
        ((32, 32, 31), (320, 320, 320), True),
        ((16, 24, 20), (16, 24, 20), False),  # all of the image
        ((16, 24, 16), (16, 24, 20), True),
        ((64, 64), (320, 320), False),
        ((64, 63), (320, 320), True),
    ],
)
def test_a_patch_is_too_small_where_the_image_is_larger(invented_dataset, patch, image, tiny):
    search = TinyPlanner(902).search_of("2d" if len(patch) == 2 else "3d_fullres", (1.0,) * len(patch))
    refused = pytest.raises(ValueError, match=" x ".join(map(str, patch)))
    with refused if tiny else nullcontext():
        search.refuse_tiny(patch, image)


def test_widths_double_up_to_nnunets_largest(invented_dataset):
    planner = TinyPlanner(902)
    assert planner.widths(2, 7) == [32, 64, 128, 256, 512, 512, 512]
    assert planner.widths(3, 7) == [32, 64, 128, 256, 320, 320, 320]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({}, ["nnUNetPlans_2d", "nnUNetPlans_3d_fullres", "nnUNetTinyPlans_3d_lowres"]),
        ({"suppress_transpose": True}, [f"nnUNetTinyPlans_{name}" for name in ("2d", "3d_fullres", "3d_lowres")]),
        (
            {"overwrite_target_spacing": [1.0, 1.0, 1.0]},
            [f"nnUNetTinyPlans_{name}" for name in ("2d", "3d_fullres", "3d_lowres")],
        ),
    ],
)
def test_data_are_shared_with_nnunets_plans_where_they_are_the_same(invented_dataset, arguments, names):
    planner = TinyPlanner(902, **arguments)
    assert [planner.generate_data_identifier(name) for name in ("2d", "3d_fullres", "3d_lowres")] == names


def test_a_gpu_too_small_for_any_patch(invented_dataset):
    with pytest.raises(ValueError, match=r"Tiny 3d_fullres does not fit: 0.0 GiB .* give a larger --gpu-memory"):
        TinyPlanner(902, 0.56).get_plans_for_configuration(np.ones(3), np.full(3, 32), "Tiny_3d_fullres", 1e6, {})


@pytest.mark.parametrize(
    ("spacing", "name"),
    [((1.0, 1.0, 1.0), "3d_fullres"), pytest.param((1.0, 1.0), "2d", marks=pytest.mark.slow)],
)
def test_a_gpu_too_small_for_a_patch_worth_training_on(invented_dataset, spacing, name):
    planner = TinyPlanner(902, 0.575)
    with pytest.raises(ValueError, match=rf"Tiny {name}: .* show too little of an image.* give a larger --gpu-memory"):
        planner.get_plans_for_configuration(np.array(spacing), np.full(len(spacing), 320), f"Tiny_{name}", 1e9, {})


def test_images_too_small_for_two_stages(invented_dataset):
    with pytest.raises(ValueError, match=r"patches of \(6, 6\) voxels, too few"):
        TinyPlanner(902).get_plans_for_configuration(np.ones(2), np.array([6, 6]), "Tiny_2d", 1000, {})


PREPROCESSING = {
    "preprocessor_name": "Another",
    "spacing": [2.0, 2.0, 2.0],
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [True],
    "resampling_fn_data": "another",
    "resampling_fn_data_kwargs": {"order": 1},
    "resampling_fn_seg": "another",
    "resampling_fn_seg_kwargs": {"order": 0},
}


@pytest.mark.parametrize("key", PREPROCESSING)
def test_data_preprocessed_in_another_way_are_left_alone(invented_dataset, capsys, key):
    planner = TinyPlanner(902)
    mine = {"data_identifier": "nnUNetPlans_3d_fullres", **dict.fromkeys(PREPROCESSING, "as it is")}
    other = {"configurations": {"3d_fullres": {**mine, key: PREPROCESSING[key]}}}
    (invented_dataset / "nnUNetPlans.json").write_text(json.dumps(other))
    planner.save_plans({"configurations": {"3d_fullres": mine}})
    written = json.loads((invented_dataset / "nnUNetTinyPlans.json").read_text())
    assert written["configurations"]["3d_fullres"]["data_identifier"] == "nnUNetTinyPlans_3d_fullres"
    assert "nnUNetPlans.json preprocesses nnUNetPlans_3d_fullres in another way" in capsys.readouterr().out


def test_data_preprocessed_in_the_same_way_are_shared(invented_dataset, capsys):
    mine = {"data_identifier": "nnUNetPlans_3d_fullres", **PREPROCESSING, "batch_size": 2}
    (invented_dataset / "nnUNetPlans.json").write_text(
        json.dumps({"configurations": {"3d_fullres": {**mine, "batch_size": 9}, "2d": {"data_identifier": "other"}}})
    )
    TinyPlanner(902).save_plans({"configurations": {"3d_fullres": dict(mine)}})
    written = json.loads((invented_dataset / "nnUNetTinyPlans.json").read_text())
    assert written["configurations"]["3d_fullres"] == mine and capsys.readouterr().out == ""


OF_ALL = {
    "image_reader_writer": "NibabelIO",
    "transpose_forward": [2, 0, 1],
    "foreground_intensity_properties_per_channel": {"0": {"mean": 9.0}},
}


@pytest.mark.parametrize("key", OF_ALL)
def test_what_plans_say_of_all_configurations_preprocesses_too(invented_dataset, key):
    own = {"data_identifier": "nnUNetPlans_3d_fullres", **PREPROCESSING}
    plans = {"configurations": {"3d_fullres": own}, **dict.fromkeys(OF_ALL, "as it is")}
    other = invented_dataset / "nnUNetPlans.json"  # as of another data set, by nnUNetv2_move_plans_between_datasets
    other.write_text(json.dumps({**plans, key: OF_ALL[key]}))
    TinyPlanner(902).save_plans(plans)
    assert own["data_identifier"] == "nnUNetTinyPlans_3d_fullres"


@pytest.mark.parametrize(
    ("before", "other", "kept"),
    [
        ({}, None, True),
        ({"batch_size": 9}, None, True),
        ({"spacing": [3.0, 3.0, 3.0]}, None, False),
        ({"normalization_schemes": ["ZScoreNormalization"]}, None, False),
        ({"spacing": None, "inherits_from": "mine"}, None, True),  # which is of the other's data
        ({"data_identifier": "others", "spacing": [3.0, 3.0, 3.0]}, None, True),
    ],
)
def test_data_that_plans_of_the_name_made_in_another_way_are_no_data_of_theirs(invented_dataset, before, other, kept):
    """A lower memory, for example, gives 3d_lowres larger voxels, in plans that are called as before."""
    configuration = {"data_identifier": "nnUNetPlans_3d_fullres", **PREPROCESSING}
    files = {"nnUNetTinyPlans": {"3d_fullres": {**configuration, **before}}}
    if other is not None:
        files["nnUNetPlans"] = {"3d_fullres": {**configuration, **other}}
    for name, configurations in files.items():
        (invented_dataset / f"{name}.json").write_text(json.dumps({"configurations": configurations}))
    case = invented_dataset / "nnUNetPlans_3d_fullres" / "case.pkl"
    case.parent.mkdir()
    case.touch()
    TinyPlanner(902).save_plans({"configurations": {"3d_fullres": configuration}})
    assert case.is_file() == kept


@pytest.mark.parametrize(("seconds", "kept"), [((-9, -9), False), ((-9, 9), False), ((9, 9), True)])
def test_outdated_data_are_kept_only_where_other_plans_had_them_all_made_since(invented_dataset, seconds, kept):
    """Plans that are only planned, after a correction of dataset.json say, have made no data."""
    configuration = {"data_identifier": "nnUNetPlans_3d_fullres", **PREPROCESSING}
    before = {**configuration, "normalization_schemes": ["ZScoreNormalization"]}
    other = invented_dataset / "nnUNetResEncUNetLPlans.json"
    for file, own in ((invented_dataset / "nnUNetTinyPlans.json", before), (other, configuration)):
        file.write_text(json.dumps({"configurations": {"3d_fullres": own}}))
    cases = [invented_dataset / "nnUNetPlans_3d_fullres" / f"case_{number}.pkl" for number in range(2)]
    cases[0].parent.mkdir()
    for case, later in zip(cases, seconds, strict=True):
        case.touch()
        os.utime(case, (other.stat().st_mtime + later,) * 2)
    TinyPlanner(902).save_plans({"configurations": {"3d_fullres": configuration}})
    assert [case.is_file() for case in cases] == [kept] * 2


def test_outdated_data_behind_a_link_are_left_to_the_user(invented_dataset, tmp_path):
    configuration = {"data_identifier": "nnUNetPlans_3d_fullres", **PREPROCESSING}
    file, link = invented_dataset / "nnUNetTinyPlans.json", invented_dataset / "nnUNetPlans_3d_fullres"
    file.write_text(json.dumps({"configurations": {"3d_fullres": {**configuration, "spacing": [3.0, 3.0, 3.0]}}}))
    before = file.read_text()
    (tmp_path / "elsewhere").mkdir()
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"^{link} is a link to data that .*; delete both"):
        TinyPlanner(902).save_plans({"configurations": {"3d_fullres": configuration}})
    assert file.read_text() == before and link.is_dir()


def test_data_of_their_own_that_plans_made_in_another_way_before(invented_dataset):
    shared = {"data_identifier": "nnUNetPlans_3d_fullres", **PREPROCESSING}
    own = {**shared, "data_identifier": "nnUNetTinyPlans_3d_fullres", "spacing": [3.0, 3.0, 3.0]}
    for name, configuration in (("nnUNetPlans", {**shared, "use_mask_for_norm": [False]}), ("nnUNetTinyPlans", own)):
        (invented_dataset / f"{name}.json").write_text(json.dumps({"configurations": {"3d_fullres": configuration}}))
    folders = [invented_dataset / f"{name}_3d_fullres" for name in ("nnUNetPlans", "nnUNetTinyPlans")]
    for folder in folders:
        folder.mkdir()
    TinyPlanner(902).save_plans({"configurations": {"3d_fullres": shared}})
    assert shared["data_identifier"] == "nnUNetTinyPlans_3d_fullres"
    assert [folder.is_dir() for folder in folders] == [True, False]


def test_configurations_that_a_user_added_are_kept(invented_dataset):
    file = invented_dataset / "nnUNetTinyPlans.json"
    file.write_text(json.dumps({"configurations": {"2d": {"old": 1}, "mine": {"inherits_from": "2d"}}}))
    TinyPlanner(902).save_plans({"configurations": {"2d": {"new": np.int64(1)}}})
    assert json.loads(file.read_text())["configurations"] == {"2d": {"new": 1}, "mine": {"inherits_from": "2d"}}


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (
            {"architecture": {"network_class_name": "torch.hub.load", "arch_kwargs": {}, "_kw_requires_import": []}},
            "'torch.hub.load', which is not taken from a file",
        ),
        ({"inherits_from": "3d_lowres"}, "inherits from '3d_lowres', which there is not"),
    ],
)
def test_configurations_that_a_user_added_are_checked_before_anything_is_changed(invented_dataset, added, message):
    file, data = invented_dataset / "nnUNetTinyPlans.json", invented_dataset / "nnUNetPlans_3d_fullres"
    own = {"data_identifier": data.name}
    before = json.dumps({"configurations": {"3d_fullres": {**own, "spacing": [3.0, 3.0, 3.0]}, "mine": added}})
    file.write_text(before)
    data.mkdir()
    with pytest.raises(ValueError, match=f"nnUNetTinyPlans.json: .*{message}"):
        TinyPlanner(902).save_plans({"configurations": {"3d_fullres": own}})
    assert file.read_text() == before and data.is_dir()


def test_plans_of_any_name_are_seen(invented_dataset):
    """``-overwrite_plans_name coarse -overwrite_target_spacing 2 2 2`` of a ResEnc planner, whose folder is shared."""
    configuration = {"data_identifier": "nnUNetPlans_3d_fullres", **PREPROCESSING}
    coarse = {"configurations": {"3d_fullres": {**configuration, "spacing": [4.0, 4.0, 4.0]}}}
    (invented_dataset / "coarse.json").write_text(json.dumps(coarse))
    for number, content in enumerate(("{", "[]", '{"configurations": 3}', '{"configurations": {"2d": 3}}')):
        (invented_dataset / f"something{number}.json").write_text(content)
    with pytest.raises(ValueError, match=r"no plans none of this data set to match \(there are: coarse\)"):
        command.plan(902, "SegMamba", match="none")
    TinyPlanner(902).save_plans({"configurations": {"3d_fullres": configuration}})
    assert configuration["data_identifier"] == "nnUNetTinyPlans_3d_fullres"


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"configurations": 3}', '{"configurations": {"2d": 3}}', "\0"], ids=range(6)
)
@pytest.mark.parametrize("name", ["nnUNetPlans.json", "nnUNetPlans_v2.json", "nnUNetTinyPlans.json"])
def test_damaged_plans_beside_those_that_are_made(invented_dataset, name, content):
    (invented_dataset / name).write_text(content)
    plans = {"configurations": {"3d_fullres": {"data_identifier": "nnUNetPlans_3d_fullres"}}}
    with pytest.raises(ValueError, match=name):
        TinyPlanner(902).save_plans(plans)
    assert (invented_dataset / name).read_text() == content
    (invented_dataset / name).rename(invented_dataset / f"._{name}")  # as macOS leaves beside what it copies
    TinyPlanner(902).save_plans(plans)
    assert json.loads((invented_dataset / "nnUNetTinyPlans.json").read_text()) == plans


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no valid JSON"),
        ('{"spacings": [[1.0', "is no valid JSON"),
        ("{}", "has no spacings, shapes_after_crop, foreground_.*, median_relative_size_after_cropping"),
    ],
)
def test_half_a_fingerprint(invented_dataset, content, message):
    (invented_dataset / "dataset_fingerprint.json").write_text(content)
    with pytest.raises(ValueError, match=f"dataset_fingerprint.json {message}.*; .*delete it"):
        command.plan(902, "SegMamba")


def test_a_fingerprint_of_other_cases_is_told(tmp_path, capsys):
    file = tmp_path / "dataset_fingerprint.json"
    file.write_text(json.dumps({"spacings": [[1.0, 1.0, 1.0]] * 3}))
    command._tell_of_other_cases(file, 3)
    assert capsys.readouterr().out == ""
    command._tell_of_other_cases(file, 4)
    assert f"WARNING: {file} is of 3 cases, and the data set has 4; " in capsys.readouterr().out


@pytest.mark.slow
def test_matching_the_memory_of_other_plans(tiny_dataset, tiny_planner, preprocessed_now, capsys):
    """Plans with a batch far beyond nnU-Net's 5 % of the data set, as the planners of ResEnc networks make them."""
    generous = tiny_dataset.plans("nnUNetPlans")
    generous["configurations"]["3d_fullres"]["batch_size"] = 12
    tiny_dataset.write_plans("nnUNetGenerousPlans", generous)
    file = command.plan(DATASET_ID, "Tiny", match="nnUNetGenerousPlans", configurations=["3d_fullres"], processes=1)
    assert file.name == "nnUNetTinyAsGenerousPlans.json"
    out = capsys.readouterr().out
    assert "nnUNetTinyAsGenerousPlans, estimated peak" in out and "nnUNetGenerousPlans, estimated peak" in out
    ours, theirs = PlansManager(str(file)), PlansManager(str(file.with_name("nnUNetGenerousPlans.json")))
    description = tiny_dataset.dataset_json()
    for name in ("2d", "3d_fullres"):
        assert plan_memory(ours, name, description)[0].total <= plan_memory(theirs, name, description)[0].total
    assert ours.get_configuration("3d_fullres").batch_size > 2  # nnU-Net's 5 % would be 2


@pytest.mark.parametrize(("budget", "over"), [(5 * GIB, ""), (5 * GIB - 1, "; MORE THAN PLANNED WITH")])
def test_the_parts_of_the_memory_are_told(tiny_dataset, monkeypatch, budget, over):
    """5 GiB, of which 2 are fixed."""
    training, prediction = MemoryEstimate(GIB, GIB, GIB, GIB, GIB), MemoryEstimate(GIB, 0, 0, GIB // 4, 0)
    monkeypatch.setattr(command, "plan_memory", lambda *_: (training, prediction))
    plans = PlansManager(tiny_dataset.plans("nnUNetPlans"))
    plan = plans.get_configuration("3d_fullres")
    title, *lines = command.describe(plans, tiny_dataset.dataset_json(), budget=budget)
    assert title == "nnUNetPlans, estimated peak of allocated GPU memory (5.0 GiB were to be used)"
    assert lines[1] == (
        f"  3d_fullres          patch 16 x 24 x 20, batch size {plan.batch_size}, {len(plan.pool_op_kernel_sizes)} "
        "stages: training 5.00 GiB (2.00 weights and optimiser, 3.00 activations and gradients), prediction 1.25 GiB "
        f"per patch{over}"
    )


def test_plans_to_match_run_no_code(tiny_dataset, monkeypatch):
    called = []
    monkeypatch.setattr("torch.hub.load", lambda *args, **kwargs: called.append(args))
    hostile = tiny_dataset.plans("nnUNetPlans")
    hostile["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "torch.hub.load"
    tiny_dataset.write_plans("nnUNetHostilePlans", hostile)
    with pytest.raises(ValueError, match=r"HostilePlans.json: .*'torch.hub.load', which is not taken from a file"):
        command.plan(DATASET_ID, "UMambaBot", match="nnUNetHostilePlans")
    (tiny_dataset.preprocessed / NAME / "nnUNetHostilePlans.json").unlink()
    assert not called


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"network": "SegMamab"},
            "no planner for a network 'SegMamab'; there are .*MedSegMamba, .*SegMamba, .*UMambaEnc",
        ),
        ({"gpu_memory": 24, "match": "nnUNetPlans"}, "give one of them"),
        ({"gpu_memory": 0.5}, "GiB of a GPU, such as 8, 24, 40 or 80; got 0.5"),
        ({"gpu_memory": float("inf")}, "GiB of a GPU, such as 8, 24, 40 or 80; got inf"),
        ({"gpu_memory": 1e300}, r"GiB of a GPU, such as 8, 24, 40 or 80; got 1e\+300"),
        ({"processes": 0}, "-np must be at least 1, got 0"),
        ({"match": f"../{INVENTED}/dataset_fingerprint"}, "no plans .*dataset_fingerprint of this data set to match"),
        (
            {"configurations": ["3d_fulres"]},
            "no configuration '3d_fulres'; .* 2d, 3d_fullres, 3d_lowres, 3d_cascade_fullres$",
        ),
        ({"dataset_id": 903}, "no data set with ID 903 in nnUNet_raw="),
        (
            {"match": "nnUNetResEncUNetLPlans"},
            "no plans nnUNetResEncUNetLPlans .*none.* nnUNetv2_plan_experiment -d 902",
        ),
    ],
)
def test_bad_arguments(invented_dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        command.plan(**{"dataset_id": 902, "network": "SegMamba", **arguments})


@pytest.mark.parametrize("base", ["raw", "preprocessed", "results"])
def test_a_data_set_of_two_names(invented_dataset, tmp_path, monkeypatch, base):
    """nnU-Net looks in all three folders, and would fail after the images are read."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    other = tmp_path / base / "Dataset902_Old"
    other.mkdir(parents=True)
    shutil.rmtree(invented_dataset)
    with pytest.raises(ValueError, match=f"ID 902 has the names .*: .*raw/{INVENTED}.*; rename ") as error:
        command.plan(902, "SegMamba")
    assert str(other) in str(error.value) and not invented_dataset.exists()


def test_folders_that_are_not_there(invented_dataset, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="cannot make .*file.*; set nnUNet_preprocessed"):
        command.plan(902, "SegMamba")
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(ValueError, match="nnUNet_preprocessed is not set"):
        command.plan(902, "SegMamba")


def test_the_command_reuses_what_is_there_and_the_stock_trainer_trains(
    tiny_dataset, tiny_planner, preprocessed_now, monkeypatch, capsys
):
    fingerprint = tiny_dataset.preprocessed / NAME / "dataset_fingerprint.json"
    made = fingerprint.stat().st_mtime_ns
    monkeypatch.setenv("nnUNet_compile", "f")
    file = command.plan(DATASET_ID, "Tiny", 2, configurations=["3d_fullres", "3d_lowres"], processes=1)
    assert file.name == "nnUNetTiny2GPlans.json"
    assert fingerprint.stat().st_mtime_ns == made
    assert preprocessed_now == []
    out = capsys.readouterr().out
    assert "nnUNetTiny2GPlans has no 3d_lowres" in out
    assert "WARNING" not in out
    assert "3d_fullres          patch 16 x 24 x 20" in out

    plans = {**json.loads(file.read_text()), "continue_training": False}  # as run_training.py does
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, tiny_dataset.dataset_json(), torch.device("cpu"))
    trainer.initialize()
    patch, batch = trainer.configuration_manager.patch_size, trainer.configuration_manager.batch_size
    scales = trainer._get_deep_supervision_scales()
    target = [torch.zeros(batch, 1, *(round(p * s) for p, s in zip(patch, scale, strict=True))) for scale in scales]
    result = trainer.train_step({"data": torch.randn(batch, 2, *patch), "target": target})
    assert np.isfinite(result["loss"])


def test_raw_data_that_changed_after_they_were_preprocessed_are_told(tiny_dataset, preprocessed_now, capsys, tmp_path):
    folder = tiny_dataset.preprocessed / NAME
    plans = PlansManager(tiny_dataset.plans("nnUNetPlans"))
    image, label = tmp_path / "image", tmp_path / "label"
    cases = {path.stem: Case((image,), image) for path in (folder / "nnUNetPlans_3d_fullres").glob("*.pkl")}
    cases["case_1"] = Case((image,), label)
    for file, time in ((image, 0), (label, 1e11)):
        file.touch()
        os.utime(file, (time, time))
    command._preprocess(DATASET_ID, plans, cases, folder, ["3d_fullres"], 1)
    out = capsys.readouterr().out
    assert f"WARNING: raw files of case_1 changed since; to preprocess again, delete {folder}" in out
    assert preprocessed_now == []
    del cases["case_1"]
    command._preprocess(DATASET_ID, plans, cases, folder, ["3d_fullres"], 1)
    assert "WARNING" not in capsys.readouterr().out and preprocessed_now == ["3d_fullres"]  # case_1 is one too many


@pytest.mark.slow
def test_the_command_preprocesses_what_is_incomplete(tiny_dataset, tiny_planner, preprocessed_now):
    properties = next((tiny_dataset.preprocessed / NAME / "nnUNetPlans_3d_fullres").glob("*.pkl"))
    hidden = properties.rename(properties.with_suffix(".hidden"))
    try:
        command.plan(DATASET_ID, "Tiny", configurations=["3d_fullres", "2d"], processes=1)
    finally:
        hidden.rename(properties)
    assert preprocessed_now == ["3d_fullres"]
