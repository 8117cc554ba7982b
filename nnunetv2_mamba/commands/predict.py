"""The verb ``predict`` of the command ``nnunetv2_mamba``."""

import argparse
from pathlib import Path

from .inference_options import add_device_option, add_inference_options, choices_of, device_of

HELP = "predict as nnUNetv2_predict does, with little memory and in one process: for images that it cannot hold"
EXAMPLES = (
    "nnunetv2_mamba predict -i IMAGES -o OUT -m Dataset004_Hippocampus/nnUNetTrainerSegMamba__nnUNetPlans__3d_fullres",
    "nnunetv2_mamba predict -i IMAGES -o OUT -d 4 -c 3d_fullres -tr nnUNetTrainerSegMamba --disable_tta",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..packaging.outputs import ENCODINGS  # imports nothing heavy

    parser.add_argument(
        "-i", dest="input", type=Path, required=True, metavar="IN", help="folder of CASE_0000.nii.gz, ..., as nnU-Net's"
    )
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        required=True,
        metavar="OUT",
        help="folder for segmentations; needs room for the logits of one case, 2 bytes for each class and voxel",
    )
    model = parser.add_argument_group("the model, by its folder or as nnUNetv2_predict is told")
    model.add_argument(
        "-m",
        dest="models",
        type=Path,
        nargs="+",
        metavar="MODEL_FOLDER|ZIP",
        help="TRAINER__PLANS__CONFIGURATION, or its export; predictions of several are averaged",
    )
    model.add_argument("-d", dest="dataset", metavar="DATASET", help="number or name; with -c")
    model.add_argument("-c", dest="configuration", metavar="CONFIGURATION")
    model.add_argument("-tr", dest="trainer", default="nnUNetTrainer", help="(default: %(default)s)")
    model.add_argument("-p", dest="plans", default="nnUNetPlans", help="(default: %(default)s)")
    parser.add_argument("-f", dest="folds", nargs="+", metavar="FOLD", help="(default: all that a model has)")
    parser.add_argument(
        "-chk", dest="checkpoint", default="checkpoint_final.pth", metavar="FILE", help="(default: %(default)s)"
    )
    add_inference_options(parser)
    parser.add_argument(
        "-prev_stage_predictions",
        dest="previous",
        type=Path,
        metavar="FOLDER",
        help="what the first model of a cascade predicted, for the second",
    )
    parser.add_argument("--continue_prediction", action="store_true", help="leave cases out that OUT has already")
    outputs = parser.add_argument_group("outputs beside the segmentations")
    outputs.add_argument(
        "--probabilities",
        choices=tuple(ENCODINGS),
        help="OUT/probabilities/LABEL/CASE.nii.gz for each label or region; uint8 and uint16 are whole numbers that "
        "readers scale to 0 to 1",
    )
    outputs.add_argument(
        "--save_probabilities",
        action="store_true",
        help="OUT/CASE.npz and .pkl of all labels, as nnU-Net's, for nnUNetv2_ensemble and evaluate",
    )
    outputs.add_argument("--volumes", action="store_true", help="OUT/volumes.json: ml of each case and label or region")
    add_device_option(parser)


def run(args: argparse.Namespace) -> int:
    from ..packaging.folder_prediction import predict_folder

    if args.models and (args.dataset or args.configuration):
        raise ValueError("-m names the model by its folder, -d and -c by its names: give one or the other")
    return predict_folder(
        args.models or [_folder_in_results(args)],
        args.input,
        args.output,
        choices_of(args),
        device_of(args),
        args.folds,
        overwrite=not args.continue_prediction,
        previous_folder=args.previous,
        calibrated=args.calibrated,
        probabilities=args.probabilities,
        volumes=args.volumes,
        for_nnunet=args.save_probabilities,
    )


def _folder_in_results(args: argparse.Namespace) -> Path:
    if args.dataset is None or args.configuration is None:
        raise ValueError("say which model: -m MODEL_FOLDER, or -d DATASET and -c CONFIGURATION")
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    from ..nnunet_folders import nnunet_folder

    results = nnunet_folder("nnUNet_results")
    name = maybe_convert_to_dataset_name(args.dataset)
    return results / name / f"{args.trainer}__{args.plans}__{args.configuration}"
