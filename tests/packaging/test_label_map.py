"""Logits and labels of made-up networks, the same bits as of nnU-Net's predictor and export; and probabilities."""

import itertools
from unittest.mock import patch

import numpy as np
import pytest
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunetv2_mamba.packaging import stored_logits
from nnunetv2_mamba.packaging.class_maps import ImageLogits, resampler_to_image
from nnunetv2_mamba.packaging.label_map import _of_the_largest, label_map
from nnunetv2_mamba.packaging.network_loading import LoadedModel
from nnunetv2_mamba.packaging.stored_logits import StoredLogits
from nnunetv2_mamba.packaging.tile_predictor import Preprocessed, TilePredictor
from nnunetv2_mamba.packaging.time_budget import Effort

LABELS = {"background": 0, "a": 1, "b": 2, "c": 3}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "inner": 3}
RESAMPLING = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
IN_TORCH = {"is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False}


def model_of(patch, spacing, labels=LABELS, folds=1, mirroring=None, order=None, transpose=(0, 1, 2), resampling=None):
    """One convolution, different in each fold, with the plans that prediction reads."""
    configuration = {
        "patch_size": patch,
        "spacing": spacing,
        "preprocessor_name": "DefaultPreprocessor",
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**RESAMPLING, "order": 3},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**RESAMPLING, "is_seg": True},
        "resampling_fn_probabilities": "resample_torch_fornnunet" if resampling else "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling or RESAMPLING,
        "architecture": {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []},
    }
    plans = PlansManager(
        {
            "configurations": {"made_up": configuration},
            "transpose_forward": list(transpose),
            "transpose_backward": np.argsort(transpose).tolist(),
            "foreground_intensity_properties_per_channel": {"0": {}},
            "label_manager": "LabelManager",
        }
    )
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    if order:
        dataset["regions_class_order"] = order
    heads = plans.get_label_manager(dataset).num_segmentation_heads
    torch.manual_seed(0)
    convolution = nn.Conv2d if len(patch) == 2 else nn.Conv3d
    networks = [convolution(1, heads, 3, padding=1, padding_mode="replicate") for _ in range(folds)]
    for network in networks:
        nn.init.normal_(network.weight)
    weights = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]
    return LoadedModel(
        networks[0], plans, plans.get_configuration("made_up"), weights, dataset, "nnUNetTrainer", mirroring
    )


def image_of(shape=(21, 26, 19)):
    """A ball of noise in air, which nnU-Net crops away."""
    rng = np.random.default_rng(0)
    grid = np.indices(shape).reshape(3, *shape) - np.reshape(shape, (3, 1, 1, 1)) / 2
    image = rng.normal(1, 1, shape) * ((grid / np.reshape(shape, (3, 1, 1, 1))) ** 2).sum(0).__lt__(0.2)
    return image[None].astype(np.float32)


def preprocessed(model, spacing):
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case_npy(
        image_of(), None, {"spacing": spacing}, model.plans, model.configuration, model.dataset
    )
    return torch.from_numpy(data).float().contiguous(), properties


def by_nnunet(model, data, properties, effort):
    """Logits, labels and probabilities."""
    predictor = nnUNetPredictor(
        effort.step_size, use_mirroring=effort.mirroring, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.manual_initialization(*model)
    logits = predictor.predict_logits_from_preprocessed_data(data).numpy()
    arguments = (logits, model.plans, model.configuration, predictor.label_manager, properties)
    labels = convert_predicted_logits_to_segmentation_with_correct_shape(*arguments, num_threads_torch=1)
    _, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(*arguments, True, 1)
    return logits, labels, probabilities


def by_us(model, data, properties, effort, folder):
    predictor = TilePredictor(model, "default", "cpu", float)
    heads = predictor.label_manager
    resample = resampler_to_image(model.plans, model.configuration, properties)
    with StoredLogits((heads.num_segmentation_heads, *data.shape[1:]), folder) as stored:
        predictor.predict(Preprocessed(data), effort, stored)
        logits = np.concatenate([stored.read_head(head) for head in range(stored.shape[0])])
        maps = ImageLogits(stored, resample, heads, model.plans, properties)
        probabilities = []
        labels = label_map(maps, lambda *head: probabilities.append(maps.whole_probability(*head)))
        np.testing.assert_array_equal(label_map(maps), labels)
        return logits, labels, np.stack(probabilities)


@pytest.mark.parametrize("in_a_file", [False, True])
@pytest.mark.parametrize(
    ("options", "spacing", "step_size"),
    [
        # the patch is larger than the image along one axis, and tiles overlap unevenly along the others
        ({"patch": [8, 32, 8], "spacing": [1.0, 1.0, 1.0]}, [1.0, 1.0, 1.0], 0.5),
        ({"patch": [8, 12, 8], "spacing": [1.0, 1.0, 1.0], "folds": 3, "mirroring": (0, 2)}, [1.3, 0.9, 0.7], 0.5),
        ({"patch": [64, 64, 64], "spacing": [1.5, 1.5, 1.5], "folds": 2}, [1.0, 1.0, 1.0], 0.5),
        # thick slices, which nnU-Net resamples by themselves, and axes in another order
        ({"patch": [4, 12, 12], "spacing": [4.0, 1.0, 1.0], "transpose": (2, 0, 1)}, [0.8, 0.8, 5.0], 1.0),
        ({"patch": [8, 12, 8], "spacing": [1.0, 1.0, 1.0], "labels": {**LABELS, "ignore": 4}}, [1.2] * 3, 0.7),
        (
            {"patch": [8, 12, 8], "spacing": [1.0, 1.0, 1.0], "labels": REGIONS, "order": [1, 2, 3], "folds": 2},
            [1.3, 0.9, 0.7],
            0.5,
        ),
        ({"patch": [8, 12, 8], "spacing": [1.0, 1.0, 1.0], "resampling": IN_TORCH}, [1.3, 0.9, 0.7], 0.5),
        ({"patch": [12, 16], "spacing": [1.0, 1.0], "folds": 2, "mirroring": (0, 1)}, [3.0, 0.9, 1.2], 0.5),
    ],
    ids=["padded", "folds mirrored", "one patch", "thick slices", "ignore", "regions", "resampled by torch", "2d"],
)
def test_logits_labels_and_probabilities_are_those_of_nnunet(options, spacing, step_size, in_a_file, tmp_path):
    model = model_of(**options)
    effort = Effort(options.get("folds", 1), bool(options.get("mirroring")), step_size)
    data, properties = preprocessed(model, spacing)
    assert properties["shape_after_cropping_and_before_resampling"] != properties["shape_before_cropping"]
    their_logits, theirs, their_probabilities = by_nnunet(model, data, properties, effort)
    with patch.object(stored_logits, "_IN_MEMORY", 0 if in_a_file else 1 << 30):
        our_logits, ours, our_probabilities = by_us(model, data, properties, effort, tmp_path)
    assert our_logits.dtype == their_logits.dtype == np.float16
    np.testing.assert_array_equal(our_logits, their_logits)
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(theirs)) == 4
    assert our_probabilities.dtype == their_probabilities.dtype == np.float32
    np.testing.assert_allclose(our_probabilities, their_probabilities, rtol=2e-6, atol=1e-30)
    assert not list(tmp_path.iterdir())


def test_more_than_254_labels_are_16_bits(tmp_path):
    labels = {"background": 0, **{f"label {value}": value for value in range(1, 300)}}
    model = model_of([8, 12, 8], [1.0] * 3, labels)
    data, properties = preprocessed(model, [1.0, 1.0, 1.0])
    _, theirs, _ = by_nnunet(model, data, properties, Effort(1, False, 1.0))
    _, ours, _ = by_us(model, data, properties, Effort(1, False, 1.0), tmp_path)
    assert ours.dtype == theirs.dtype == np.uint16
    np.testing.assert_array_equal(ours, theirs)
    assert ours.max() > 255


def test_the_first_of_equal_classes_and_of_nan_is_taken():
    values = [-np.inf, -1.0, 0.0, 1.0, np.inf, np.nan]
    classes = np.array(list(itertools.product(values, repeat=3)), dtype=np.float16).T
    np.testing.assert_array_equal(_of_the_largest(classes), classes.argmax(0))


def test_logits_too_large_for_half_precision_are_an_error():
    model = model_of([8, 12, 8], [1.0] * 3)
    model.weights[0]["bias"][2] = 1e5
    with pytest.raises(FloatingPointError, match="infinite, or too large for the 16 bits"):
        by_us(model, *preprocessed(model, [1.0] * 3), Effort(1, False, 0.5), None)


@pytest.mark.parametrize("folds", [1, 2])
def test_voxels_without_numbers_are_counted(folds):
    """In any head of any fold; nothing but NaN says nothing."""
    model = model_of([8, 32, 8], [1.0] * 3, folds=folds)
    data, _ = preprocessed(model, [1.0] * 3)
    predictor = TilePredictor(model, "default", "cpu", float)

    def count(data):
        with StoredLogits((4, *data.shape[1:]), None) as stored:
            return predictor.predict(Preprocessed(data), Effort(folds, False, 0.5), stored)

    assert count(data) == 0
    spoilt = data.clone()
    spoilt[0, 4:7, 5, 3] = np.nan
    assert count(spoilt) == 5 * 3 * 3  # all that the kernel of 3 x 3 x 3 sees of it
    model.weights[-1]["bias"][1] = np.nan
    with pytest.raises(FloatingPointError, match="NaN alone: its training has diverged, or it needs"):
        count(data)


def test_a_disk_without_room_is_named(tmp_path):
    with pytest.raises(OSError, match=rf"{tmp_path} has .* GB free, .*40 x 1e\+06 x 512 x 512 in 16 bits"):
        StoredLogits((40, 10**6, 512, 512), tmp_path)


def test_labels_of_the_stage_before_become_channels_of_each_tile(tmp_path):
    """Also where the patch is larger than the image, and outside of the part that is not cropped away."""
    alone = model_of([8, 32, 8], [1.0, 1.0, 1.0])
    plans = PlansManager(alone.plans.plans)
    plans.plans["configurations"]["made_up"]["previous_stage"] = "first"
    network = nn.Conv3d(4, 4, 3, padding=1)
    model = alone._replace(
        network=network,
        plans=plans,
        configuration=plans.get_configuration("made_up"),
        weights=[{name: value.clone() for name, value in network.state_dict().items()}],
    )
    assert (alone.n_inputs, model.n_inputs) == (1, 4)
    image = image_of()
    before = np.random.default_rng(1).integers(0, 4, image.shape, dtype=np.int8)
    data, labels, properties = model.configuration.preprocessor_class(verbose=False).run_case_npy(
        image, before, {"spacing": [1.1, 0.9, 1.2]}, plans, model.configuration, model.dataset
    )
    assert set(np.unique(labels)) == {-1, 0, 1, 2, 3}
    stacked = np.vstack((data, convert_labelmap_to_one_hot(labels[0], [1, 2, 3], data.dtype)))
    effort = Effort(1, False, 0.5)
    logits, *_ = by_nnunet(model, torch.from_numpy(stacked), properties, effort)
    predictor = TilePredictor(model, "default", "cpu", float)
    with StoredLogits(logits.shape, tmp_path) as stored:
        predictor.predict(Preprocessed(torch.from_numpy(data), torch.from_numpy(labels[0])), effort, stored)
        ours = np.concatenate([stored.read_head(head) for head in range(4)])
    np.testing.assert_array_equal(ours, logits)
