"""Plans from anybody: what nnU-Net's own planners write is taken, everything else is one sentence and runs nothing."""

import json
from copy import deepcopy

import pytest

from nnunetv2_mamba.files import parse_json
from nnunetv2_mamba.untrusted.plans import check_untrusted_plans

UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESAMPLING = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
TOPOLOGY = {
    "n_stages": 2,
    "features_per_stage": [8, 16],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [2, 2, 2]],
}
OPERATORS = {
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
IMPORTS = ["conv_op", "norm_op", "dropout_op", "nonlin"]
ARCHITECTURE = {
    "network_class_name": UNET,
    "arch_kwargs": {**TOPOLOGY, **OPERATORS, "n_conv_per_stage": [2, 2], "n_conv_per_stage_decoder": [2]},
    "_kw_requires_import": IMPORTS,
}
RESIDUAL = {**TOPOLOGY, **OPERATORS, "n_blocks_per_stage": [1, 2], "n_conv_per_stage_decoder": [1]}
CONFIGURATION = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [32, 32, 32],
    "spacing": [1.0, 0.5, 0.5],
    "normalization_schemes": ["ZScoreNormalization", "CTNormalization"],
    "use_mask_for_norm": [False, True],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": RESAMPLING,
    "resampling_fn_seg_kwargs": RESAMPLING,
    "resampling_fn_probabilities_kwargs": RESAMPLING,
    "architecture": ARCHITECTURE,
}
OLD = {  # of before nnU-Net 2.4
    **{key: value for key, value in CONFIGURATION.items() if key != "architecture"},
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 32,
    "unet_max_num_features": 320,
    "n_conv_per_stage_encoder": [2, 2],
    "n_conv_per_stage_decoder": [2],
    "num_pool_per_axis": [1, 1, 1],
    "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
    "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3]],
}
PLANS = {
    "dataset_name": "Dataset001_X",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "label_manager": "LabelManager",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0}},
    "configurations": {
        "3d_fullres": CONFIGURATION,
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
}


def plans_of(architecture: dict | None = None, **configuration) -> dict:
    architecture = {**ARCHITECTURE, **(architecture or {})}
    return {**PLANS, "configurations": {"c": {**CONFIGURATION, "architecture": architecture, **configuration}}}


def arguments_of(**arguments) -> dict:
    return plans_of({"arch_kwargs": {**ARCHITECTURE["arch_kwargs"], **arguments}})


def old_plans(**changes) -> dict:
    return {**PLANS, "configurations": {"c": {**OLD, **changes}}}


PRIMUS = {
    "network_class_name": "dynamic_network_architectures.architectures.primus.Primus",
    "arch_kwargs": {
        "embed_dim": 396,
        "patch_embed_size": [8, 8, 8],
        "eva_depth": 12,
        "eva_numheads": 6,
        "input_shape": [32, 32, 32],
    },
    "_kw_requires_import": [],
}
MOVED = "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet"  # as plans of 2.4 may have it
OURS = {"arch_kwargs": TOPOLOGY, "_kw_requires_import": ["conv_op"]}


@pytest.mark.parametrize(
    "plans",
    [
        PLANS,
        plans_of({"network_class_name": UNET.replace("PlainConv", "ResidualEncoder"), "arch_kwargs": RESIDUAL}),
        plans_of({"network_class_name": MOVED, "arch_kwargs": RESIDUAL}),
        plans_of(PRIMUS),
        plans_of({"network_class_name": "nnunetv2_mamba.architectures.UMambaBot", **OURS}),
        plans_of({"network_class_name": "nnunetv2_mamba.SegMamba", **OURS}),
        plans_of({"network_class_name": "nnunetv2_mamba.architectures.UMambaEnc", **OURS}),
        old_plans(),
        old_plans(UNet_class_name="ResidualEncoderUNet"),
        plans_of(normalization_schemes=["RGBTo01Normalization", "NoNormalization"]),
        plans_of(resampling_fn_data="resample_torch_fornnunet", resampling_fn_data_kwargs={"is_seg": False}),
        {**PLANS, "transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]},
    ],
    ids=range(12),
)
def test_what_nnunet_and_this_package_plan_is_taken(plans):
    given = deepcopy(plans)
    check_untrusted_plans(plans, "plans.json")
    assert plans == given


def test_the_tests_own_plans_are_taken(tiny_dataset):
    for file in (tiny_dataset.preprocessed / "Dataset901_Tiny").glob("*Plans.json"):
        check_untrusted_plans(json.loads(file.read_text()), file)


ATTACKS = [
    "torch.hub.load",
    "os.system",
    "builtins.exec",
    "exec",
    "torch.nn.Module",
    "torch\uff0ehub.load",
    " nnunetv2_mamba.SegMamba",
    "nnunetv2_mamba.SegMamba ",
    "nnunetv2_mamba.SegMamba\n",
    "nnunetv2_mamba..SegMamba",
    "nnunetv2_mamba.",
    "nnunetv2_mamba.__main__.main",
    "nnunetv2_mamba.SegMamba.__init__",
    "nnunetv2_mamba.cli",
    "nnunetv2_mamba.cli.main",
    "nnunetv2_mamba.architectures.os",
    "nnunetv2_mamba.files.shutil.rmtree",
    "nnunetv2_mamba.files.write_text",
    "nnunetv2_mamba.architectures.segmamba.nn.Conv3d",
    "nnunetv2_mamba.architectures.segmamba.torch.hub.load",
    "dynamic_network_architectures.os.system",
    "dynamic_network_architectures.architectures.unet.torch.hub.load",
    "dynamic_network_architectures.architectures.unet.BasicBlockD.forward",
    "dynamic_network_architectures.architectures.nowhere.load",
    "dynamic_network_architectures.building_blocks.helper.get_matching_convtransp",
    "dynamic_network_architectures.building_blocks.helper.nn.Conv3d",
    "",
    None,
    5,
    ["torch.hub.load"],
    {"torch.hub.load": 1},
]


@pytest.mark.parametrize("name", ATTACKS, ids=str)
def test_network_classes_of_elsewhere_are_refused(name):
    with pytest.raises(ValueError, match=r"^plans.json: configuration 'c': 'network_class_name' is ") as caught:
        check_untrusted_plans(plans_of({"network_class_name": name}), "plans.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *(name for name in ATTACKS if name is not None and name != "torch.nn.Module"),
        "torch.nn.os",
        "torch.nn.modules.module.torch.hub.load",
        "torch.nn.modules.module.warnings",
        "torch.nn.functional.torch",
        "torch.nn.parallel.DistributedDataParallel",
        "torch.nn.utils.clip_grad_norm_",
    ],
    ids=str,
)
def test_operators_of_elsewhere_are_refused(name):
    with pytest.raises(ValueError, match="configuration 'c': 'nonlin' is "):
        check_untrusted_plans(arguments_of(nonlin=name), "plans.json")


def test_nothing_is_called_before_all_is_checked(monkeypatch, tmp_path):
    """Also where the hostile configuration comes last, or is inherited."""
    called = []
    monkeypatch.setattr("torch.hub.load", lambda *args, **kwargs: called.append(args))
    hostile = {"inherits_from": "3d_fullres", "architecture": {**ARCHITECTURE, "network_class_name": "torch.hub.load"}}
    plans = {
        **PLANS,
        "configurations": {**PLANS["configurations"], "hostile": hostile, "x": {"inherits_from": "hostile"}},
    }
    with pytest.raises(ValueError, match="configuration 'hostile': 'network_class_name'"):
        check_untrusted_plans(plans, "plans.json")
    assert not called


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        ([], "the plans are no JSON object"),
        (None, "the plans are no JSON object"),
        ({}, "'configurations' is no JSON object"),
        ({**PLANS, "configurations": []}, "'configurations' is no JSON object"),
        ({**PLANS, "configurations": {}}, "has 0 configurations"),
        ({**PLANS, "configurations": {"c": None}}, "configuration 'c' is no JSON object"),
        ({**PLANS, "configurations": {"c": {"inherits_from": "d"}}}, "'c' inherits from 'd', which there is not"),
        ({**PLANS, "configurations": {"c": {"inherits_from": ["c"]}}}, r"'c' inherits from \['c'\]"),
        ({**PLANS, "configurations": {"c": {"inherits_from": "c"}}}, "'c' inherit from each other"),
        (
            {**PLANS, "configurations": {"c": {"inherits_from": "d"}, "d": {"inherits_from": "c"}}},
            "'c', 'd' inherit from each other",
        ),
        ({**PLANS, "x": nested(500)}, "nested more than"),
        ({**PLANS, "image_reader_writer": "os.system"}, "'image_reader_writer' must be the name"),
        ({**PLANS, "image_reader_writer": "np"}, "'np', which nnU-Net has not in nnunetv2.imageio"),
        ({**PLANS, "label_manager": "np"}, "'np', which nnU-Net has not"),
        ({**PLANS, "label_manager": None}, "'label_manager' must be"),
        ({**PLANS, "label_manager": ["LabelManager"]}, "'label_manager' must be"),
        ({**PLANS, "image_reader_writer": []}, "'image_reader_writer' must be"),
        ({**PLANS, "transpose_forward": [0, 1, 3]}, "no order of axes"),
        ({**PLANS, "transpose_backward": "012"}, "no order of axes"),
        (
            {**PLANS, "transpose_forward": [2, 0, 1], "transpose_backward": [2, 0, 1]},
            r"'transpose_backward' \[2, 0, 1\] does not undo 'transpose_forward' \[2, 0, 1\]",
        ),
        ({**PLANS, "transpose_forward": [0, 1]}, "does not undo"),
        ({**PLANS, "foreground_intensity_properties_per_channel": {"0": 1}}, "a JSON object for each channel"),
        (plans_of({"arch_kwargs": None}), "'arch_kwargs' is no JSON object"),
        (plans_of({"_kw_requires_import": "conv_op"}), "no list of keys"),
        (plans_of({"_kw_requires_import": ["other"]}), "has no 'other'"),
        ({**PLANS, "configurations": {"c": {"architecture": {}}}}, "has no network_class_name"),
        ({**PLANS, "configurations": {"c": {"architecture": None}}}, "'architecture' is no JSON object"),
        (arguments_of(features_per_stage=[10**9, 8]), "'features_per_stage' is absurd: 1000000000"),
        (arguments_of(features_per_stage=[16384, 16384]), "would have [0-9,]{14,} weights"),
        (arguments_of(n_stages=10**9), "'n_stages' is absurd"),
        (arguments_of(n_conv_per_stage=10**9), "'n_conv_per_stage' is absurd"),
        (arguments_of(n_conv_per_stage=[256] * 5), "'n_conv_per_stage' adds up to"),
        (arguments_of(kernel_sizes=[[3, 3, 3]] * 1000), "'kernel_sizes' is a list of 1000"),
        (arguments_of(norm_op_kwargs={"eps": float("nan")}), "'eps' is absurd"),
        (arguments_of(n_stages=10**400), "'n_stages' is absurd"),
        (arguments_of(features_per_stage=None), "cannot be built with its 'arch_kwargs'"),
        (arguments_of(unknown=1), "cannot be built with its 'arch_kwargs': TypeError"),
        (arguments_of(conv_op="torch.nn.Module"), "cannot be built with its 'arch_kwargs'"),
        (plans_of(patch_size=[-1, 0, 5]), "'patch_size' must be"),
        (plans_of(patch_size=["a", "b", "c"]), "'patch_size' must be"),
        (plans_of(patch_size=[10**6] * 3), "'patch_size' must be"),
        (plans_of(patch_size=[8192] * 3), "'patch_size' must be"),
        (plans_of(patch_size=None), "'patch_size' must be"),
        (plans_of(patch_size=[True, 8, 8]), "'patch_size' must be"),
        (plans_of(spacing=[0, 1, 1]), "'spacing' must be"),
        (plans_of(spacing=[1, 1]), "'spacing' must be"),
        (plans_of(spacing=[float("inf"), 1, 1]), "'spacing' must be"),
        (plans_of(spacing=[10**400, 1, 1]), "'spacing' must be"),
        (plans_of(normalization_schemes=["os.system"]), "'normalization_schemes' must be"),
        (plans_of(normalization_schemes=["np"]), "'np', which nnU-Net has not"),
        (plans_of(normalization_schemes="ZScoreNormalization"), "no list"),
        (plans_of(use_mask_for_norm=None), "no list"),
        (plans_of(preprocessor_name="join"), "'join', which nnU-Net has not"),
        (plans_of(preprocessor_name=["DefaultPreprocessor"]), "'preprocessor_name' must be"),
        (plans_of(resampling_fn_seg=[]), "'resampling_fn_seg' must be"),
        (plans_of(preprocessor_name="__class__"), "'preprocessor_name' must be"),
        (plans_of(resampling_fn_seg="recursive_find_python_class"), "which nnU-Net has not"),
        (plans_of(resampling_fn_seg="torch"), "which nnU-Net has not"),
        (plans_of(resampling_fn_data_kwargs={"folder": "/"}), "'resampling_fn_data_kwargs' does not fit"),
        (plans_of(resampling_fn_data_kwargs=[]), "no JSON object"),
        (plans_of(resampling_fn_seg_kwargs={"num_threads": 10**6}), "'num_threads' is absurd"),
        (old_plans(UNet_class_name="os.system"), "'UNet_class_name' must be PlainConvUNet or ResidualEncoderUNet"),
        (old_plans(UNet_base_num_features=10**9), "'UNet_base_num_features' is absurd"),
        (old_plans(n_conv_per_stage_encoder=[1] * 60), "has 60 stages"),
        (old_plans(n_conv_per_stage_encoder=7), "'n_conv_per_stage_encoder' must be a list"),
        (
            {**PLANS, "configurations": {"c": {key: OLD[key] for key in ("UNet_class_name", "patch_size")}}},
            "has neither an 'architecture' nor",
        ),
    ],
    ids=range(66),
)
def test_plans_of_other_types_and_absurd_sizes(plans, message):
    with pytest.raises(ValueError, match=f"^plans.json: .*{message}"):
        check_untrusted_plans(plans, "plans.json")


def test_tables_that_are_no_weights_are_counted():
    """The positions in a window of 60 tokens per axis: few weights, and a table of all pairs."""
    architecture = {
        "network_class_name": "nnunetv2_mamba.architectures.SwinUNETR",
        "arch_kwargs": {
            "n_stages": 6,
            "features_per_stage": [12, 12, 24, 48, 96, 192],
            "conv_op": "torch.nn.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * 6,
            "strides": [[1, 1, 1], *[[2, 2, 2]] * 5],
            "window_size": 60,
        },
        "_kw_requires_import": ["conv_op"],
    }
    with pytest.raises(ValueError, match="SwinUNETR would have 373,[0-9,]{11} weights"):
        check_untrusted_plans(plans_of(architecture), "plans.json")


def test_json_that_is_nested_too_deep_is_no_traceback():
    with pytest.raises(ValueError, match="plans.json is no valid JSON"):
        parse_json(b"[" * 100_000, "plans.json")
