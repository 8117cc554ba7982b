"""Every public operator shows an example, and the examples are true."""

import doctest
import inspect
import sys
from pkgutil import iter_modules

import pytest

from nnunetv2_mamba import ops
from nnunetv2_mamba.ops import backend_selection, scan_order

PUBLIC = [value for name in ops.__all__ if inspect.isfunction(value := getattr(ops, name))]
PUBLIC += [getattr(scan_order, name) for name in scan_order.__all__]
PUBLIC += [backend_selection.choose_backend]


@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__name__)
def test_example(function):
    names = vars(sys.modules[function.__module__])
    (found,) = doctest.DocTestFinder(recurse=False).find(function, function.__name__, globs=dict(names))
    assert found.examples, "no example"
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(found).failed == 0


@pytest.mark.parametrize("package", [ops, scan_order], ids=lambda package: package.__name__)
def test_no_function_hides_a_module(package):
    """``ops.directional_scan`` is the function; a module of that name could only be had from ``sys.modules``."""
    assert not {module.name for module in iter_modules(package.__path__)} & {*package.__all__}
