"""Whether nnU-Net's folders are there, and whether it finds the trainers."""

import os
import shlex
import site
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

from .. import _register
from .findings import NOTE, Finding
from .packages import PACKAGE


def folders() -> Iterator[Finding]:
    """Look for nnU-Net's three folders, for information: not every use needs all of them."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        value = os.environ.get(name)
        if value is None:
            yield Finding(name, "not set", verdict=NOTE)
        elif Path(value).is_dir():
            yield Finding(name, value)
        else:
            yield Finding(name, f"{value} (no such folder)", verdict=NOTE)


def start_up() -> Iterator[Finding]:
    """Look whether the start-up file has put our folder on nnUNet_extTrainer."""
    if not Path(_register.DISCOVERY).is_dir():
        text = f"our folder {_register.DISCOVERY} is no folder on this disk, so nnU-Net cannot search it"
        yield Finding("nnUNet_extTrainer", text, "install the package unpacked, with pip, not as a ZIP file")
        return
    value = os.environ.get("nnUNet_extTrainer", "")
    complete = _register.with_discovery(value)
    if value == complete:
        yield Finding("nnUNet_extTrainer", value)
        return
    remedy = f"export nnUNet_extTrainer={shlex.quote(complete)}"
    if os.name == "nt":  # PowerShell
        remedy = "$Env:nnUNet_extTrainer = '{}'".format(complete.replace("'", "''"))
    yield Finding("nnUNet_extTrainer", f"lacks our folder: {_why_not_registered()}", remedy)


def _why_not_registered() -> str:
    if os.environ.get("NNUNETV2_MAMBA_AUTOREGISTER") == "0":
        return "NNUNETV2_MAMBA_AUTOREGISTER=0 switches the start-up file off"
    if sys.flags.no_site:
        return "Python runs without start-up files (option -S)"
    homes = [Path(home) for home in (*site.getsitepackages(), site.getusersitepackages())]
    if any((home / "nnunetv2_mamba.pth").is_file() for home in homes):
        return "the start-up file is there but had no effect, or the variable was overwritten later"
    if PACKAGE.parent in homes:
        return f"the start-up file nnunetv2_mamba.pth is missing beside {PACKAGE}"
    return (
        f"the package lies in {PACKAGE.parent} (sources, PYTHONPATH or pip install --target), and Python runs the "
        "start-up files of site-packages only"
    )


def extensions() -> Iterator[Finding]:
    """Look at what other packages add by entry points, if there are any."""
    from .. import architectures  # noqa: F401  (loads the modules)
    from ..extensions import PARTS, PROBLEMS, installed_trainers, load_trainer, package_of
    from ..nnunet.trainer_search import find_trainer

    modules = {f"{package_of(entry)}: {entry.module}" for entry in entry_points(group=PARTS)}
    for module in sorted(modules - PROBLEMS.keys()):
        yield Finding("extension", f"{module} is loaded")
    for module, reason in PROBLEMS.items():
        yield Finding("extension", f"{module} is not loaded: {reason}", "repair or uninstall that package")
    for name, entry in installed_trainers().items():
        try:
            trainer = load_trainer(entry)
        except ImportError as error:
            yield Finding("extension", str(error), "repair or uninstall that package")
            continue
        found = find_trainer(name)
        if found not in (None, trainer):  # None: nnU-Net does not look here, which is said below
            text = f"{package_of(entry)}: nnU-Net finds another {name}, in the module {found.__module__}"
            yield Finding("extension", text, "give that package's trainer another name")
            continue
        yield Finding("extension", f"{package_of(entry)}: {trainer.__module__} has {name}")


def trainers() -> Iterator[Finding]:
    """Look whether nnU-Net's own search finds our trainers under their names."""
    from .. import trainers
    from ..nnunet.trainer_search import find_trainer

    # nnU-Net's search takes a while; the length variants come from the same file as the trainer that they vary
    names = sorted(trainers.FULL_LENGTH)
    for name in names:
        found = find_trainer(name)
        if found is None:
            yield Finding("trainers", f"nnU-Net does not find {name}", "set nnUNet_extTrainer as said above")
            return
        if found is not getattr(trainers, name):
            text = f"nnU-Net finds another {name}, in the module {found.__module__}"
            yield Finding("trainers", text, "rename or remove that class")
            return
    text = f"nnU-Net finds all {len(names)}, such as nnUNetTrainerSegMamba; nnunetv2_mamba trainers lists them"
    yield Finding("trainers", text)
