"""The verb ``predict`` of the command ``nnunetv2_mamba``."""

import argparse
from pathlib import Path

HELP = "predict as nnUNetv2_predict does, with little memory and in one process: for images that it cannot hold"
EXAMPLES = (
    "nnunetv2_mamba predict -i IMAGES -o OUT -m Dataset004_Hippocampus/nnUNetTrainerSegMamba__nnUNetPlans__3d_fullres",
    "nnunetv2_mamba predict -i IMAGES -o OUT -d 4 -c 3d_fullres -tr nnUNetTrainerSegMamba --disable_tta",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..packaging.inference_settings import PRECISIONS  # like this file, of the standard library only

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
        "-m", dest="model", type=Path, metavar="MODEL_FOLDER|ZIP", help="TRAINER__PLANS__CONFIGURATION, or its export"
    )
    model.add_argument("-d", dest="dataset", metavar="DATASET", help="number or name; with -c")
    model.add_argument("-c", dest="configuration", metavar="CONFIGURATION")
    model.add_argument("-tr", dest="trainer", default="nnUNetTrainer", help="(default: %(default)s)")
    model.add_argument("-p", dest="plans", default="nnUNetPlans", help="(default: %(default)s)")
    parser.add_argument("-f", dest="folds", nargs="+", metavar="FOLD", help="(default: all that the model has)")
    parser.add_argument(
        "-chk", dest="checkpoint", default="checkpoint_final.pth", metavar="FILE", help="(default: %(default)s)"
    )
    parser.add_argument(
        "-step_size", "--step-size", type=float, default=0.5, metavar="SHARE", help="(default: %(default)s)"
    )
    parser.add_argument("--disable_tta", action="store_true", help="no mirroring")
    parser.add_argument(
        "-prev_stage_predictions",
        dest="previous",
        type=Path,
        metavar="FOLDER",
        help="what the first model of a cascade predicted, for the second",
    )
    parser.add_argument("--continue_prediction", action="store_true", help="leave cases out that OUT has already")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="default",
        help="of the network (default: nnU-Net's, fp16 on a GPU and fp32 else)",
    )
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="(default: cuda where there is one, else cpu)")


def run(args: argparse.Namespace) -> int:
    from ..packaging.folder_prediction import predict_folder
    from ..packaging.inference_settings import Choices

    choices = Choices(
        checkpoint=args.checkpoint,
        mirroring=not args.disable_tta,
        step_size=args.step_size,
        precision=args.precision,
    )
    model = args.model or _folder_in_results(args)
    return predict_folder(
        model,
        args.input,
        args.output,
        choices,
        args.folds,
        args.device,
        overwrite=not args.continue_prediction,
        previous_folder=args.previous,
    )


def _folder_in_results(args: argparse.Namespace) -> Path:
    if args.dataset is None or args.configuration is None:
        raise ValueError("say which model: -m MODEL_FOLDER, or -d DATASET and -c CONFIGURATION")
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    from ..nnunet_folders import nnunet_folder

    results = nnunet_folder("nnUNet_results")
    name = maybe_convert_to_dataset_name(args.dataset)
    return results / name / f"{args.trainer}__{args.plans}__{args.configuration}"
