"""What all trainers here share: a network from the plan, and nnU-Net's loop with the recipe's numbers, resumable."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunetv2_mamba.architectures.contract import PlannedNetwork
from nnunetv2_mamba.architectures.from_plans import network_from_plans
from nnunetv2_mamba.files import read_json
from nnunetv2_mamba.memory.allocator import keep_freed_memory
from nnunetv2_mamba.nnunet.class_or_trainer import class_or_trainer_method
from nnunetv2_mamba.nnunet.preemptible_training import PreemptibleTraining
from nnunetv2_mamba.nnunet.preprocessed_files import N_FOLDS, cases_not_segmented, cases_segmented_by_fold_all
from nnunetv2_mamba.text import first_few

from .activation_checkpointing import checkpoint_activations
from .label_check import check_labels
from .pretraining import load_pretraining
from .resumable_trainer import ResumableTrainer

# nnU-Net's weight, in distributed trainings, of the lowest head, relative to the highest: it must get a gradient.
_LOWEST_HEAD = 1e-6


class nnUNetTrainerMamba(PreemptibleTraining, ResumableTrainer):
    """nnU-Net's trainer for the networks of this package. A subclass says which network and which recipe.

    The loop, sampling, augmentation and loss are nnU-Net's. Different are: the optimiser and its schedule, which moves
    with every iteration, and the settings (``RecipeTrainer``); the mixed precision (``StepTrainer``); what happens in a
    step that fails (``GuardedTrainer``); what a training is continued with (``ResumableTrainer``); that it can be
    stopped at any moment (``PreemptibleTraining``).

    Attributes:
        network_class: a network of ``nnunetv2_mamba.architectures``.
        network_options: its options, which override the plan's.
    """

    network_class: ClassVar[type[PlannedNetwork]]
    network_options: ClassVar[Mapping[str, Any]] = {}

    @class_or_trainer_method
    def chosen_options(self) -> dict[str, Any]:
        """Return the options of the network that this trainer is about, whatever the plan has."""
        return {**self.network_options, **self.recipe.network_options()}

    @class_or_trainer_method
    def build_network_architecture(
        self,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> PlannedNetwork:
        """Build the network for this plan, whichever planner made it. nnU-Net calls this for prediction too."""
        return network_from_plans(
            self.network_class,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
            **self.chosen_options(),
        )

    def initialize(self) -> None:
        super().initialize()
        self.precision.check_convolutions(self.bare_network())
        if self.recipe.activation_checkpointing:  # later than torch.compile's wrapper, which traces at the first call
            checkpoint_activations(self.bare_network())
        if not self.continued:  # before -pretrained_weights of nnUNetv2_train, which have the last word
            load_pretraining(self.bare_network(), self.plans_manager.plans, self.print_to_log_file)

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        """Return the resolutions of the network's logits; nnU-Net's are the plan's, perhaps of another network."""
        if not self.enable_deep_supervision:
            return None
        plan = self.configuration_manager
        strides, _ = self.network_class.stages(plan.pool_op_kernel_sizes, plan.network_arch_init_kwargs["kernel_sizes"])
        return [list(scale) for scale in 1 / np.cumprod(strides, axis=0)[:-1]]

    def _build_loss(self) -> nn.Module:
        """Build nnU-Net's loss; the only head of a plan of two stages, and the lowest on several GPUs, have a weight.

        nnU-Net weighs the lowest head 0, and divides by the sum of the weights. On several GPUs it does so where it
        compiles; uncompiled, which the network may become, DistributedDataParallel wants a gradient for everything.
        """
        loss = super()._build_loss()
        if isinstance(loss, DeepSupervisionWrapper):
            weights = loss.weight_factors
            if len(weights) == 1:
                loss.weight_factors = (1.0,)
            elif self.is_ddp and weights[-1] == 0:
                loss.weight_factors = (*weights[:-1], _LOWEST_HEAD * weights[0])
        return loss

    def get_tr_and_val_datasets(self) -> tuple[nnUNetBaseDataset, nnUNetBaseDataset]:
        """Return nnU-Net's data sets, once every case is known to be there; nnU-Net finds out in mid-training.

        Raises:
            FileNotFoundError: naming the cases of the split that are not preprocessed or, for a cascade's second model,
                not segmented by the first.
            ValueError: for a fold without cases, or too few cases to split; naming those with labels that the network
                has no output for.
        """
        splits = Path(self.preprocessed_dataset_folder_base, "splits_final.json")
        try:
            datasets = super().get_tr_and_val_datasets()
        except ValueError as error:
            if self.fold == "all" or splits.is_file():
                raise
            n_cases = len(self.dataset_class.get_identifiers(self.preprocessed_dataset_folder))
            raise ValueError(
                f"fold {self.fold}: nnU-Net splits a data set into {N_FOLDS} folds, and there are {n_cases} cases in "
                f"{self.preprocessed_dataset_folder}; write the folds into {splits}, or give fold all, which trains "
                "with every preprocessed case"
            ) from error
        for purpose, dataset in zip(("training", "validation"), datasets, strict=True):
            if len(dataset.identifiers) == 0:
                raise ValueError(
                    f"fold {self.fold} has no {purpose} cases; list some in {splits}, or give fold all, which trains "
                    "with every preprocessed case"
                )
        cases = {case for dataset in datasets for case in dataset.identifiers}
        preprocessed = set(self.dataset_class.get_identifiers(self.preprocessed_dataset_folder))
        missing = sorted(cases - preprocessed)
        if missing:
            dataset, plans = self.plans_manager.dataset_name, self.plans_manager.plans_name
            raise FileNotFoundError(
                f"{self.preprocessed_dataset_folder} lacks {len(missing)} cases of the split: "
                f"{first_few(missing, 20)}. Preprocess again (nnUNetv2_preprocess -d "
                f"{convert_dataset_name_to_id(dataset)} -plans_name {plans} -c {self.configuration_name}), or take "
                "them out of splits_final.json beside that folder"
            )
        if self.fold != "all" and splits.is_file():
            self._warn_of_cases_in_no_fold(preprocessed, splits)
        if self.is_cascaded:
            self._check_previous_stage(cases)
        if self.local_rank == 0:
            check_labels(datasets, self.label_manager)
        return datasets

    def _warn_of_cases_in_no_fold(self, cases: Collection[str], splits: Path) -> None:
        """Own splits may leave cases out; nnU-Net's are made once, and those that were added later are in none."""
        in_folds = {case for fold in read_json(splits) for case in (*fold.get("train", ()), *fold.get("val", ()))}
        if left_out := sorted(set(cases) - in_folds):
            self.print_to_log_file(
                f"WARNING: {len(left_out)} preprocessed cases are in no fold of {splits}: {first_few(left_out, 20)}. "
                "If they should be, delete that file, which nnU-Net then makes anew, and train all folds again"
            )

    def _check_previous_stage(self, cases: Collection[str]) -> None:
        folder = self.folder_with_segs_from_previous_stage
        stage = self.configuration_manager.previous_stage_name
        missing = cases_not_segmented(Path(folder), cases)
        if missing:
            raise FileNotFoundError(
                f"{folder} lacks the segmentations of {len(missing)} cases: {first_few(missing, 20)}. Train "
                f"{stage} with this trainer and these plans, all folds of it: each segments the cases that it "
                "validates with"
            )
        if self.fold == "all":
            return
        of_training = cases_segmented_by_fold_all(Path(folder).parents[1], cases, self.dataset_json["file_ending"])
        if of_training:
            self.print_to_log_file(
                f"WARNING: {folder} has segmentations of {len(of_training)} cases by fold_all of {stage}, which was "
                f"trained with them and validated last: {first_few(of_training, 20)}. Validate the numbered folds of "
                f"{stage} again (nnUNetv2_train with --val), which write them anew, then train this fold again"
            )

    def on_train_start(self) -> None:
        if self.device.type == "cpu":
            keep_freed_memory()
        super().on_train_start()
        planned = self.configuration_manager.network_arch_init_kwargs
        for name, value in self.chosen_options().items():
            if planned.get(name, value) != value:
                self.print_to_log_file(f"The plan's {name}={planned[name]!r} gives way to this trainer's {value!r}.")


def of_one_scale(loss: nn.Module) -> nn.Module:
    """Return nnU-Net's loss, which has ``dc``, ``ce`` and their weights, out of what wraps it with deep supervision."""
    return loss.loss if isinstance(loss, DeepSupervisionWrapper) else loss
