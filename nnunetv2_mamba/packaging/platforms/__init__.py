"""The platforms, one module each: every module here is imported, and those of platforms register what they hold.

Command line, containers, tests and documentation are made from the registry. A platform is its module and, where its
files differ from the common ones, the folder ``packaging/templates/NAME``.
"""

from importlib import import_module
from pkgutil import iter_modules

from .base_platform import PLATFORMS, CaseFiles, Platform

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["PLATFORMS", "CaseFiles", "Platform"]
