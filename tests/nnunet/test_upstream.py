"""What this package relies on in nnU-Net without a promise: a test that fails here is named after what has moved.

The callers are read from the code of nnU-Net's functions: the names that it uses, and its constants.
"""

from __future__ import annotations

import inspect
from importlib.metadata import entry_points
from types import SimpleNamespace

import pytest
import torch
from nnunetv2.experiment_planning import plan_and_preprocess_api
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.run import run_training
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_mamba.nnunet.checkpoint import checkpoint_content
from nnunetv2_mamba.nnunet.names import CHECKPOINTS, CONFIGURATIONS

# The trainer's methods that are overridden or called, and their arguments.
METHODS = {
    "__init__": ["plans", "configuration", "fold", "dataset_json", "device"],
    "_build_loss": [],
    "_do_i_compile": [],
    "configure_optimizers": [],
    "configure_rotation_dummyDA_mirroring_and_inital_patch_size": [],
    "get_dataloaders": [],
    "get_tr_and_val_datasets": [],
    "initialize": [],
    "on_epoch_end": [],
    "on_epoch_start": [],
    "on_train_end": [],
    "on_train_epoch_end": ["train_outputs"],
    "on_train_epoch_start": [],
    "on_train_start": [],
    "perform_actual_validation": ["save_probabilities"],
    "print_to_log_file": ["args", "also_print_to_console", "add_timestamp"],
    "run_training": [],
    "save_checkpoint": ["filename"],
    "set_deep_supervision_enabled": ["enabled"],
    "train_step": ["batch"],
    "validation_step": ["batch"],
}
# Who calls what of this package's classes: the trainer's, the planner's and the predictor's methods.
CALLS = {
    nnUNetTrainer.initialize: {
        "build_network_architecture", "_do_i_compile", "configure_optimizers", "_build_loss",
        "_set_batch_size_and_oversample",
    },
    nnUNetTrainer.run_training: {
        "on_train_start", "num_epochs", "on_epoch_start", "on_train_epoch_start", "num_iterations_per_epoch",
        "train_step", "on_train_epoch_end", "num_val_iterations_per_epoch", "validation_step", "on_epoch_end",
        "on_train_end",
    },
    nnUNetTrainer.on_train_start: {"initialize", "get_dataloaders", "set_deep_supervision_enabled"},
    nnUNetTrainer.get_dataloaders: {
        "get_tr_and_val_datasets", "configure_rotation_dummyDA_mirroring_and_inital_patch_size",
    },
    nnUNetTrainer.on_train_epoch_start: {"lr_scheduler"},
    nnUNetTrainer.on_epoch_end: {"save_checkpoint", "save_every", "_best_ema", "current_epoch"},
    nnUNetTrainer.on_train_end: {"save_checkpoint", "current_epoch"},
    nnUNetTrainer.perform_actual_validation: {"set_deep_supervision_enabled", "inference_allowed_mirroring_axes"},
    ExperimentPlanner.plan_experiment: {"get_plans_for_configuration", "generate_data_identifier", "save_plans"},
    ExperimentPlanner.get_plans_for_configuration: {
        "static_estimate_VRAM_usage", "UNet_reference_val_2d", "UNet_reference_val_3d", "UNet_reference_val_corresp_GB",
        "UNet_reference_val_corresp_bs_2d", "UNet_reference_val_corresp_bs_3d", "UNet_min_batch_size",
        "UNet_vram_target_GB", "UNet_featuremap_min_edge_length", "UNet_max_features_2d", "UNet_max_features_3d",
        "max_dataset_covered",
    },
    run_training.run_training_entry: {"run_training", "ArgumentParser", "set_num_threads"},
    run_training.run_training: {"get_trainer_from_args", "maybe_load_checkpoint", "perform_actual_validation"},
    run_training.get_trainer_from_args: {"recursive_find_trainer_class_by_name"},
    nnUNetPredictor.predict_logits_from_preprocessed_data: {
        "list_of_parameters", "load_state_dict", "predict_sliding_window_return_logits",
    },
    nnUNetPredictor.predict_sliding_window_return_logits: {
        "_internal_get_sliding_window_slicers", "_internal_predict_sliding_window_return_logits", "autocast",
    },
    nnUNetPredictor._internal_get_sliding_window_slicers: {
        "compute_steps_for_sliding_window", "configuration_manager", "patch_size", "tile_step_size",
    },
    nnUNetPredictor._internal_predict_sliding_window_return_logits: {"_internal_maybe_mirror_and_predict"},
    # packaging/model_content.py and network_loading.py do the same with files of anybody's.
    nnUNetPredictor.initialize_from_trained_model_folder: {
        "PlansManager", "get_configuration", "determine_num_input_channels", "recursive_find_trainer_class_by_name",
        "get_label_manager", "num_segmentation_heads", "build_network_architecture", "load_state_dict",
    },
}  # fmt: skip
# What is read of a trainer that is constructed, and of one that is initialised.
ATTRIBUTES = {
    "_best_ema", "configuration_manager", "configuration_name", "current_epoch", "dataset_json", "device",
    "disable_checkpointing", "enable_deep_supervision", "fold", "grad_scaler", "inference_allowed_mirroring_axes",
    "initial_lr", "is_cascaded", "is_ddp", "label_manager", "local_rank", "log_file", "logger", "my_init_kwargs",
    "num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "output_folder", "output_folder_base",
    "oversample_foreground_percent", "plans_manager", "preprocessed_dataset_folder", "probabilistic_oversampling",
    "save_every", "was_initialized", "weight_decay",
}  # fmt: skip
INITIALIZED = {"batch_size", "dataset_class", "loss", "lr_scheduler", "network", "num_input_channels", "optimizer"}


@pytest.fixture
def initialized(make_trainer) -> nnUNetTrainer:
    """nnU-Net's own trainer."""
    trainer = make_trainer(nnUNetTrainer, settings="")
    trainer.initialize()
    return trainer


@pytest.mark.parametrize("name", METHODS)
def test_arguments_of_the_trainers_method(name):
    parameters = list(inspect.signature(getattr(nnUNetTrainer, name)).parameters)
    assert parameters == ["self", *METHODS[name]]


def test_arguments_of_what_builds_the_network():
    """Called on the trainer in training, on its class in prediction."""
    signature = inspect.signature(nnUNetTrainer.build_network_architecture)
    assert list(signature.parameters) == [
        "plans_manager", "configuration_manager", "num_input_channels", "num_output_channels",
        "enable_deep_supervision",
    ]  # fmt: skip
    assert isinstance(inspect.getattr_static(nnUNetTrainer, "build_network_architecture"), staticmethod)


def test_loading_takes_a_file_or_its_content_in_one_argument():
    """Its name differs between nnU-Net's versions."""
    assert len(inspect.signature(nnUNetTrainer.load_checkpoint).parameters) == 2


@pytest.mark.parametrize("function", CALLS, ids=lambda function: function.__qualname__)
def test_calls_of(function):
    assert CALLS[function] <= set(inspect.unwrap(function).__code__.co_names)


@pytest.mark.parametrize("name", sorted(ATTRIBUTES))
def test_attribute_of_a_constructed_trainer(make_trainer, name):
    assert name in vars(make_trainer(nnUNetTrainer, settings=""))


def test_attributes_of_an_initialized_trainer(initialized):
    assert INITIALIZED <= vars(initialized).keys() and initialized.was_initialized


def test_the_trainers_name_is_in_its_folder_and_its_arguments_are_kept(initialized):
    assert initialized.output_folder_base.endswith("nnUNetTrainer__tinySegMambaPlans__3d_fullres")
    assert list(initialized.my_init_kwargs) == METHODS["__init__"]


def test_the_augmentations_settings_end_with_the_axes_to_mirror(initialized):
    *_, patch, axes = initialized.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert len(_) == 2 and len(patch) == 3
    assert axes == initialized.inference_allowed_mirroring_axes == (0, 1, 2)


def test_the_loss_with_deep_supervision(initialized):
    assert isinstance(initialized.loss, DeepSupervisionWrapper) and initialized.loss.weight_factors[-1] == 0
    assert isinstance(initialized.loss.loss, DC_and_CE_loss)
    assert {"dc", "ce", "weight_dice", "weight_ce"} <= {*vars(initialized.loss.loss), *initialized.loss.loss._modules}


def test_keys_of_a_checkpoint(initialized, tmp_path):
    initialized.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    theirs = torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    ours = checkpoint_content(initialized, initialized.network)
    assert list(theirs) == list(ours) and theirs["current_epoch"] == 1
    assert all(str(theirs[key]) == str(ours[key]) for key in theirs)


def test_keys_of_the_logger_and_how_it_is_shortened(initialized):
    logger = initialized.logger
    assert set(logger.get_checkpoint()) == {
        "mean_fg_dice", "ema_fg_dice", "dice_per_class_or_region", "train_losses", "val_losses", "lrs",
        "epoch_start_timestamps", "epoch_end_timestamps",
    }  # fmt: skip
    logger.log("train_losses", 0.5, 0)
    logger.log("train_losses", 0.25, 1)
    logger.load_checkpoint({key: values[:1] for key, values in logger.get_checkpoint().items()})
    assert logger.get_value("train_losses", step=None) == [0.5] and logger.get_value("train_losses", step=-1) == 0.5


def test_checkpoints_in_the_order_in_which_a_training_continues():
    constants = run_training.maybe_load_checkpoint.__code__.co_consts
    assert tuple(dict.fromkeys(value for value in constants if value in CHECKPOINTS)) == CHECKPOINTS


@pytest.mark.parametrize("continued", [True, False])
def test_the_logger_is_told_whether_the_training_is_continued(tiny_dataset, continued):
    plans = {**tiny_dataset.plans("tinySegMambaPlans"), "continue_training": continued}
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, tiny_dataset.dataset_json(), torch.device("cpu"))
    assert trainer.logger.resume is continued
    assert "continue_training" in run_training.get_trainer_from_args.__code__.co_consts


def test_the_latest_checkpoint_is_called_so():
    assert CHECKPOINTS[1] in nnUNetTrainer.on_epoch_end.__code__.co_consts


def test_what_the_predictor_reads_of_a_model():
    """``initialize_from_trained_model_folder``, which packaging/model_content.py does with plain data."""
    constants = nnUNetPredictor.initialize_from_trained_model_folder.__code__.co_consts
    assert {
        "dataset.json", "plans.json", "trainer_name", "init_args", "configuration", "network_weights",
        "inference_allowed_mirroring_axes",
    } <= set(constants)  # fmt: skip


def test_what_a_loaded_model_is_given_to_the_predictor_as():
    """``manual_initialization`` takes a LoadedModel's fields in their order."""
    assert list(inspect.signature(nnUNetPredictor.manual_initialization).parameters) == [
        "self", "network", "plans_manager", "configuration_manager", "parameters", "dataset_json", "trainer_name",
        "inference_allowed_mirroring_axes",
    ]  # fmt: skip


class Tiles(nnUNetPredictor):
    """Notes the tiles that the predictor has it predict, in place of a network."""

    def __init__(self, patch_size: list[int], axes: tuple[int, ...] | None):
        super().__init__(device=torch.device("cpu"), allow_tqdm=False)
        self.tiles: list[tuple[int, ...]] = []
        self.configuration_manager = SimpleNamespace(patch_size=patch_size)
        self.label_manager = SimpleNamespace(num_segmentation_heads=2)
        self.network, self.allowed_mirroring_axes = torch.nn.Identity(), axes
        self.list_of_parameters = [{}]

    def _internal_maybe_mirror_and_predict(self, x: torch.Tensor) -> torch.Tensor:
        self.tiles.append(tuple(x.shape))
        return torch.cat((x, x), dim=1)


@pytest.mark.parametrize(
    ("patch", "shape", "n_tiles"), [([4, 4, 4], (1, 6, 4, 3), 2), ([4, 4], (1, 3, 6, 4), 6), ([4, 4], (1, 1, 2, 2), 1)]
)
def test_the_tiles_of_the_predictor_go_through_the_method_that_packaging_overrides(patch, shape, n_tiles):
    """``_internal_maybe_mirror_and_predict``, once for each of ``_internal_get_sliding_window_slicers``."""
    predictor = Tiles(patch, None)
    logits = predictor.predict_logits_from_preprocessed_data(torch.zeros(shape))
    assert logits.shape == (2, *shape[1:])
    assert predictor.tiles == [(1, 1, *patch)] * n_tiles


def test_the_predictor_runs_the_network_on_every_mirrored_tile():
    """As many passes as ``packaging.tile_predictor`` counts: two for each axis that may be mirrored."""
    predictor, passes = Tiles([4, 4, 4], (0, 2)), []
    predictor.network = lambda x: passes.append(x) or x
    for mirrored, n_passes in ((False, 1), (True, 4)):
        predictor.use_mirroring = mirrored
        passes.clear()
        nnUNetPredictor._internal_maybe_mirror_and_predict(predictor, torch.rand(1, 1, 4, 4, 4))
        assert len(passes) == n_passes


def test_configurations_are_named_at_the_end_of_the_identifier():
    constants = ExperimentPlanner.plan_experiment.__code__.co_consts
    assert set(CONFIGURATIONS) <= set(constants)
    assert ExperimentPlanner.generate_data_identifier.__code__.co_consts[-1] == "_"


def test_arguments_of_the_planner():
    names = list(inspect.signature(ExperimentPlanner).parameters)
    assert names == [
        "dataset_name_or_id", "gpu_memory_target_in_gb", "preprocessor_name", "plans_name", "overwrite_target_spacing",
        "suppress_transpose",
    ]  # fmt: skip
    names = list(inspect.signature(ExperimentPlanner.get_plans_for_configuration).parameters)
    assert names[1:] == ["spacing", "median_shape", "data_identifier", "approximate_n_voxels_dataset", "_cache"]
    assert next(iter(inspect.signature(ExperimentPlanner.static_estimate_VRAM_usage).parameters)) == "patch_size"


def test_the_rule_for_stages():
    pools, strides, kernels, patch, divisors = get_pool_and_conv_props((1.0, 1.0, 1.0), (30, 32, 32), 4, 2)
    assert pools == [2, 2, 2] and len(strides) == len(kernels) == 3 and tuple(patch) == (32, 32, 32)
    assert tuple(divisors) == (4, 4, 4)


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (
            PlansManager,
            {"available_configurations", "dataset_name", "plans_name", "get_configuration", "get_label_manager"},
        ),
        (
            ConfigurationManager,
            {
                "batch_size", "data_identifier", "network_arch_class_name", "network_arch_init_kwargs",
                "network_arch_init_kwargs_req_import", "patch_size", "pool_op_kernel_sizes",
            },
        ),
        (
            LabelManager,
            {
                "all_labels", "foreground_labels", "foreground_regions", "has_ignore_label", "has_regions",
                "ignore_label", "num_segmentation_heads",
            },
        ),
        (nnUNetBaseDataset, {"get_identifiers", "load_case"}),
    ],
)  # fmt: skip
def test_properties_of(owner, names):
    assert names <= set(dir(owner))


def test_a_budgets_batch_size_in_the_plans_is_the_trainers(tiny_dataset):
    plans = tiny_dataset.plans("nnUNetPlans")
    plans["configurations"]["3d_fullres"]["batch_size"] = 3
    manager = PlansManager(plans)
    assert manager.get_configuration("3d_fullres").batch_size == 3 and manager.plans is plans


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (plan_and_preprocess_api.extract_fingerprint_dataset, {"dataset_id", "num_processes", "clean", "verbose"}),
        (plan_and_preprocess_api.preprocess_dataset, {"dataset_id", "plans_identifier", "configurations"}),
        (DefaultPreprocessor.run_case_npy, {"data", "seg", "properties", "plans_manager", "dataset_json"}),
        (convert_predicted_logits_to_segmentation_with_correct_shape, {"predicted_logits", "properties_dict"}),
    ],
)
def test_arguments_of(function, names):
    assert names <= set(inspect.signature(function).parameters)


@pytest.mark.parametrize("verb", ["plan_and_preprocess", "train", "predict", "evaluate_folder"])
def test_command(verb):
    (script,) = entry_points(group="console_scripts", name=f"nnUNetv2_{verb}")
    assert callable(script.load())
