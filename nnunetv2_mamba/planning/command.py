"""``nnunetv2_mamba plan``: fingerprint, plans and preprocessed data, each only where it is not there yet."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nnunetv2.configuration import default_num_processes
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset, preprocess_dataset
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mamba.memory.estimate import GIB, MemoryEstimate, plan_memory, usable_bytes
from nnunetv2_mamba.nnunet.names import CONFIGURATIONS
from nnunetv2_mamba.nnunet.plans_files import plans_files
from nnunetv2_mamba.nnunet.preprocessed_files import changed_since, is_complete

from ..files import read_json_object, read_optional_json
from ..nnunet_folders import nnunet_folder
from ..text import first_few, times
from ..untrusted.plans import check_untrusted_plans
from .dataset_checks import read_description
from .integrity import check_integrity
from .network_options import name_of_options
from .planners import DEFAULT_GPU_MEMORY, PLANNERS
from .raw_files import Case, find_cases

_PROCESSES = {"2d": 8, "3d_fullres": 4, "3d_lowres": 8}  # nnU-Net's
_MOST_MEMORY = 100_000  # GiB; larger numbers are no GPU's
_FINGERPRINT = (
    "spacings", "shapes_after_crop", "foreground_intensity_properties_per_channel",
    "median_relative_size_after_cropping",
)  # what nnU-Net reads  # fmt: skip


def plan(
    dataset_id: int,
    network: str,
    gpu_memory: float | None = None,
    match: str | None = None,
    configurations: Sequence[str] | None = None,
    processes: int | None = None,
    integrity_check: bool = True,
    options: Mapping[str, Any] = MappingProxyType({}),
    plans_name: str | None = None,
) -> Path:
    """Check a data set, plan it for a network and preprocess it. Prints the plan's estimated memory.

    Args:
        network: a key of ``planners.PLANNERS``.
        gpu_memory: GiB; None plans for 8 and leaves the number out of the name of the plans.
        match: name of plans whose memory the new ones shall have.
        configurations: what to preprocess; None for all that the plans have. Plans always have all.
        processes: for check, fingerprint and preprocessing; None for nnU-Net's numbers.
        integrity_check: whether every image and label map is read and checked first, as nnU-Net's
            ``--verify_dataset_integrity`` does.
        options: of the network, written into the plans, from which training and prediction take them.
        plans_name: None for a name made of the network's, the options' and the memory's.

    Returns:
        The plans file.

    Raises:
        ValueError: for what does not exist or does not fit, with the remedy.
        OSError: where files cannot be written.
    """
    if network not in PLANNERS:
        raise ValueError(f"no planner for a network {network!r}; there are {', '.join(PLANNERS)}")
    if gpu_memory is not None and match is not None:
        raise ValueError("--gpu-memory and --match both say how much memory there is; give one of them")
    if gpu_memory is not None and not 0 < usable_bytes(gpu_memory) <= usable_bytes(_MOST_MEMORY):
        raise ValueError(f"--gpu-memory must be GiB of a GPU, such as 8, 24, 40 or 80; got {gpu_memory:g}")
    if processes is not None and processes < 1:
        raise ValueError(f"-np must be at least 1, got {processes}")
    known = (*CONFIGURATIONS, "3d_cascade_fullres")
    for configuration in configurations or ():
        if configuration not in known:
            raise ValueError(f"no configuration {configuration!r}; nnU-Net has {', '.join(known)}")
    PLANNERS[network].check_options(options)
    if plans_name is None:
        plans_name = _plans_name(network, name_of_options(options), gpu_memory, match)
    elif not re.fullmatch(r"[\w-]*Plans[\w-]*", plans_name, re.ASCII) or "__" in f"_{plans_name}_":
        raise ValueError(
            "--plans-name must be letters, digits, _ and -, with 'Plans' in it, and no _ beside another or at an end, "
            f"since nnU-Net joins names by __; got {plans_name!r}"
        )
    raw, preprocessed = _folders(dataset_id)
    _refuse_others_plans(preprocessed / f"{plans_name}.json", PLANNERS[network].__name__)
    fingerprint = preprocessed / "dataset_fingerprint.json"
    _check_fingerprint(fingerprint)
    matched = None if match is None else _plans_to_match(preprocessed, match, dataset_id)
    description = read_description(raw / "dataset.json")
    cases = find_cases(raw, description)
    if integrity_check:
        print(f"Checking the {len(cases)} cases of {raw.name} (--no_integrity_check leaves this out)", flush=True)
        check_integrity(cases, description, raw, processes or default_num_processes)

    extract_fingerprint_dataset(
        dataset_id, num_processes=processes or default_num_processes, clean=False, verbose=False
    )
    _tell_of_other_cases(fingerprint, len(cases))
    planner = PLANNERS[network](
        dataset_id,
        gpu_memory or DEFAULT_GPU_MEMORY,
        plans_name=plans_name,
        match=matched,
        options=options,
    )
    plans = PlansManager(planner.plan_experiment())
    _preprocess(dataset_id, plans, cases, preprocessed, configurations, processes)

    budget = None if match else usable_bytes(gpu_memory or DEFAULT_GPU_MEMORY)
    print("\n".join(describe(plans, description, planner.trainer.recipe.optimizer, budget)))
    if matched is not None:
        print("\n".join(describe(matched, description, "sgd")))
    return preprocessed / f"{plans.plans_name}.json"


def describe(plans: PlansManager, dataset_json: dict, optimizer: str = "sgd", budget: float | None = None) -> list[str]:
    """Lines of text: each configuration of a plan with its estimated memory (traced now)."""
    title = f"{plans.plans_name}, estimated peak of allocated GPU memory"
    lines = [title if budget is None else f"{title} ({budget / GIB:.1f} GiB were to be used)"]
    for name in plans.available_configurations:
        configuration = plans.get_configuration(name)
        training, prediction = plan_memory(plans, name, dataset_json, optimizer)
        patch = times(configuration.patch_size)
        over = "" if budget is None or training.total <= budget else "; MORE THAN PLANNED WITH"
        lines.append(
            f"  {name:<20}patch {patch}, batch size {configuration.batch_size}, "
            f"{len(configuration.pool_op_kernel_sizes)} stages: training {_parts(training)}, "
            f"prediction {prediction.total / GIB:.2f} GiB per patch{over}"
        )
    return lines


def _parts(estimate: MemoryEstimate) -> str:
    fixed, rest = estimate.fixed / GIB, (estimate.total - estimate.fixed) / GIB
    return f"{estimate.total / GIB:.2f} GiB ({fixed:.2f} weights and optimiser, {rest:.2f} activations and gradients)"


def _plans_name(network: str, options: str, gpu_memory: float | None, match: str | None) -> str:
    if match is not None:
        return f"nnUNet{network}{options}As{match.removeprefix('nnUNet').removesuffix('Plans') or 'Default'}Plans"
    if gpu_memory is None:
        return f"nnUNet{network}{options}Plans"
    gap = "_" if options[-1:].isdigit() else ""  # d_state=1 with 24 GiB and d_state=12 with 4 are two plans
    return f"nnUNet{network}{options}{gap}{gpu_memory:g}GPlans"


def _check_fingerprint(file: Path) -> None:
    """nnU-Net takes the file that is there, also where a full disk or a killed process has left a part of it."""
    if file.exists() and (missing := [key for key in _FINGERPRINT if key not in read_optional_json(file)]):
        raise ValueError(f"{file} has no {', '.join(missing)}; delete it, and it is made again")


def _tell_of_other_cases(fingerprint: Path, there: int) -> None:
    """As nnU-Net, ``plan`` keeps a fingerprint, also where cases were added or taken away since."""
    measured = len(read_json_object(fingerprint)["spacings"])
    if measured != there:
        print(
            f"WARNING: {fingerprint} is of {measured} cases, and the data set has {there}; to plan by these, delete it "
            "and plan again"
        )


def _refuse_others_plans(file: Path, planner: str) -> None:
    made_by = read_json_object(file).get("experiment_planner_used") if file.is_file() else planner
    if made_by != planner:
        raise ValueError(f"{file.stem} are plans of {made_by} already; give another --plans-name")


def _folders(dataset_id: int) -> tuple[Path, Path]:
    """The data set's raw and preprocessed folder; the latter is made."""
    bases = [nnunet_folder(variable) for variable in ("nnUNet_raw", "nnUNet_preprocessed")]
    names = find_candidate_datasets(dataset_id)
    if len(names) > 1:  # nnU-Net refuses it too, later
        results = os.environ.get("nnUNet_results")
        places = [base / name for name in names for base in (*bases, *([Path(results)] if results else []))]
        found = [str(place) for place in places if place.is_dir()]
        raise ValueError(
            f"the data set of ID {dataset_id} has the names {', '.join(names)}: {', '.join(found)}; rename these "
            "folders alike, or move them away"
        )
    if len(names) == 0 or not (bases[0] / names[0] / "dataset.json").is_file():
        raise ValueError(
            f"no data set with ID {dataset_id} in nnUNet_raw={bases[0]}; there must be one folder "
            f"Dataset{dataset_id:03d}_NAME with a dataset.json"
        )
    raw, preprocessed = (base / names[0] for base in bases)
    try:
        preprocessed.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make {preprocessed} ({error}); set nnUNet_preprocessed to a folder for it") from error
    if not os.access(preprocessed, os.W_OK):
        raise ValueError(f"cannot write into {preprocessed}; set nnUNet_preprocessed to a folder where you can")
    return raw, preprocessed


def _plans_to_match(preprocessed: Path, name: str, dataset_id: int) -> PlansManager:
    file = preprocessed / f"{name}.json"
    if not file.is_file() or Path(name).name != name:
        there = ", ".join(path.stem for path in plans_files(preprocessed)) or "none"
        raise ValueError(
            f"no plans {name} of this data set to match (there are: {there}); make them first, ResEncUNetL for example "
            f"with nnUNetv2_plan_experiment -d {dataset_id} -pl nnUNetPlannerResEncL"
        )
    plans = read_json_object(file)
    check_untrusted_plans(plans, file)  # its network is built to count the memory
    return PlansManager(plans)


def _preprocess(
    dataset_id: int,
    plans: PlansManager,
    cases: Mapping[str, Case],
    preprocessed: Path,
    configurations: Sequence[str] | None,
    processes: int | None,
) -> None:
    sources = {case: (*files.images, files.label) for case, files in cases.items()}
    missing = []
    for name in configurations or CONFIGURATIONS:
        if name not in plans.available_configurations:
            print(f"{plans.plans_name} has no {name}: nnU-Net's rules make none for this data set")
            continue
        folder = preprocessed / plans.get_configuration(name).data_identifier
        if is_complete(folder, cases):
            print(f"{name}: the preprocessed data in {folder.name} are there already")
            if newer := changed_since(folder, sources):
                print(f"WARNING: raw files of {first_few(newer)} changed since; to preprocess again, delete {folder}")
        elif folder.name not in [plans.get_configuration(other).data_identifier for other in missing]:
            missing.append(name)
    counts = [processes or _PROCESSES.get(name, 4) for name in missing]
    preprocess_dataset(dataset_id, plans.plans_name, missing, counts)  # with none missing: the labels' copies
