"""What is particular to the CPU kernels: threads, instruction sets, and how the library is found or compiled."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scan_cases import MAKERS, assert_same, make_case, make_ssd_case, run_conv

from nnunetv2_mamba.ops.backends import cpu, cpu_build, cpu_library

needs_kernels = pytest.mark.skipif(cpu.available() is not None, reason=f"no CPU kernels here: {cpu.available()}")

LONG = 900  # is cut into segments where there are many threads
CHANNELS = (1, 7, 16, 33)  # less than, a multiple of and more than any SIMD width


@pytest.fixture
def threads():
    """Sets torch's threads, and sets them back after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def fresh_library():
    """Lets a test load the library anew; the next test does so again."""
    cpu_library.loaded.cache_clear()
    yield
    cpu_library.loaded.cache_clear()


def make_conv(channels=40, length=LONG, width=4, dtype=torch.float32):
    case = make_case(batch=2, directions=3, length=length, channels=channels, dtype=dtype)
    weight = torch.linspace(-1, 1, 3 * channels * width, dtype=dtype).view(3, channels, width)
    tensors = {"x": case.tensors["u"], "weight": weight.requires_grad_(), "bias": case.tensors["D"]}
    return tensors, case.paths


@needs_kernels
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("number", [2, 3, 64])
def test_same_bits_every_time(threads, batch, number):
    threads(number)
    tensors, paths = make_conv()
    cases = [make(batch=batch, directions=3, length=LONG, channels=40, state_size=6) for make in MAKERS.values()]
    scans, conv = [case.run_with_gradients("cpu") for case in cases], run_conv(tensors, paths, "silu", "cpu")
    for _ in range(5):
        for case, scan in zip(cases, scans, strict=True):
            for name, value in case.run_with_gradients("cpu").items():
                assert torch.equal(value, scan[name]), name
        for name, value in run_conv(tensors, paths, "silu", "cpu").items():
            assert torch.equal(value, conv[name]), name


@needs_kernels
@pytest.mark.parametrize("number", [2, 5, 64])
@pytest.mark.parametrize("state_size", [6, 200])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_number_of_threads_does_not_matter(threads, number, state_size, make):
    case = make(batch=1, directions=3, length=LONG, channels=40, state_size=state_size)
    tensors, paths = make_conv()
    threads(1)
    scan, conv = case.run_with_gradients("cpu"), run_conv(tensors, paths, "silu", "cpu")
    threads(number)
    assert_same(case.run_with_gradients("cpu"), scan, forward=1e-6, gradient=1e-5)
    assert_same(run_conv(tensors, paths, "silu", "cpu"), conv, forward=1e-6, gradient=1e-5)


@needs_kernels
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_zero_states_survive_growing_modes_from_segment_to_segment(threads, make):
    """A > 0 overflows over a segment; one thread, which has no segments, multiplies nothing by that."""
    case = make(batch=1, directions=1, length=LONG, D=False, z=False, delta_bias=False, delta_softplus=False)
    with torch.no_grad():
        case.tensors["A"].fill_(1.0)
        case.tensors["delta"].fill_(3.0)
        case.tensors["u"].zero_()
    threads(64)
    assert not case.run("cpu").any()


@needs_kernels
@pytest.mark.parametrize("instruction_set", cpu_library.loaded().supported() if cpu.available() is None else [])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_instruction_set(fresh_library, monkeypatch, instruction_set, dtype):
    monkeypatch.setenv("NNUNETV2_MAMBA_CPU_ISA", instruction_set)
    forward, gradient = (1e-6, 1e-5) if dtype == torch.float32 else (1e-13, 1e-12)
    for channels in CHANNELS:
        for make in MAKERS.values():
            case = make(length=150, channels=channels, state_size=5, dtype=dtype)
            assert_same(case.run_with_gradients("cpu"), case.run_with_gradients("reference"), forward, gradient)
        tensors, paths = make_conv(channels, 150, dtype=dtype)
        expected = run_conv(tensors, paths, "silu", "reference")
        assert_same(run_conv(tensors, paths, "silu", "cpu"), expected, forward, gradient)
    assert cpu_library.loaded().supported()[cpu_library.loaded().instruction_set] == instruction_set


@needs_kernels
@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="reads Linux's list of an x86-64")
def test_instruction_sets_are_those_that_the_system_says_the_cpu_has():
    (flags, *_) = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    needed = {
        "x86-64-v2": {"sse4_2", "popcnt", "ssse3", "cx16"},
        "x86-64-v3": {"avx2", "fma", "bmi2", "f16c", "movbe", "abm"},
        "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    }
    expected = [name for name, names in needed.items() if names <= set(flags.split())]
    assert cpu_library.loaded().supported() == expected


@needs_kernels
def test_an_unknown_instruction_set_is_a_reason(fresh_library, monkeypatch):
    monkeypatch.setenv("NNUNETV2_MAMBA_CPU_ISA", "x86-64-v9")
    assert "NNUNETV2_MAMBA_CPU_ISA=x86-64-v9 is not one of this CPU's" in cpu.available()


@needs_kernels
@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 64, 65, 129])
@pytest.mark.parametrize("state_size", [1, 9, 40])
def test_around_tiles_groups_and_chunks(length, state_size):
    for case in (
        make_case(length=length, channels=17, state_size=state_size),
        make_ssd_case(length=length, channels=34, heads=2, state_size=state_size),
    ):
        assert_same(case.run_with_gradients("cpu"), case.run_with_gradients("reference"))


@needs_kernels
@pytest.mark.parametrize("width", [1, 2, 17, 40])
def test_convolution_wider_than_a_tile_or_the_path(width):
    tensors, paths = make_conv(length=35, width=width)
    assert_same(run_conv(tensors, paths, "silu", "cpu"), run_conv(tensors, paths, "silu", "reference"))


@needs_kernels
def test_softplus_of_very_negative_values_keeps_its_digits():
    case = make_case(delta_bias=False)
    with torch.no_grad():
        case.tensors["delta"].fill_(-40.0)
    expected = case.to(torch.float64).run_with_gradients("reference")
    assert_same(case.run_with_gradients("cpu"), expected)


@needs_kernels
def test_denormals_are_kept_outside_the_kernel():
    make_case().run("cpu")
    assert (torch.full((1 << 20,), 1e-20) * 1e-20 > 0).all()  # on every thread


@needs_kernels
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no transparent huge pages here")
def test_large_results_are_advised_to_lie_on_huge_pages():
    tensors, paths = make_conv(channels=64, length=1 << 14)
    out = run_conv(tensors, paths, "silu", "cpu")["out"]
    assert "hg" in mapping_flags(out.data_ptr() + out.nbytes // 2)


def mapping_flags(address):
    """The flags of the memory mapping that holds this address."""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word = line.split()[0]
        if not word.endswith(":"):
            begin, end = (int(part, 16) for part in word.split("-"))
        elif word == "VmFlags:" and begin <= address < end:
            return line.split()[1:]
    raise LookupError(hex(address))


SCAN_IN_A_FORK = """
import os, sys, torch

torch.set_num_threads(2)
u, delta = torch.rand(2, 500, 40), torch.rand(2, 1, 500, 40)
A, B = -torch.rand(1, 40, 4), torch.rand(2, 1, 500, 4)
def scan():
    from nnunetv2_mamba import ops
    paths = ops.scan_order.unidirectional((500,))
    return ops.directional_scan(u, delta, A, B, B, paths, backend="cpu")
before = sys.argv[1]
if before == "scan":
    scan()
if before == "import":
    import nnunetv2_mamba.ops
torch.rand(1 << 20).exp()
child = os.fork()
if child == 0:
    torch.save(scan(), sys.argv[2])
    os._exit(0)
os.waitpid(child, 0)
assert torch.equal(torch.load(sys.argv[2]), scan())
"""


@needs_kernels
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(
    "before", ["scan", pytest.param("import", marks=pytest.mark.slow), pytest.param("neither", marks=pytest.mark.slow)]
)
def test_threads_after_a_fork(tmp_path, before):
    # The fork has the parent's OpenMP, but not its threads: it would wait for them forever.
    command = [sys.executable, "-W", "ignore", "-c", SCAN_IN_A_FORK, before, str(tmp_path / "out.pt")]
    subprocess.run(command, check=True, timeout=300)


# ---- where the library comes from ----


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Makes $CXX a script that does what the shell commands given say; $out is the file it is to write."""

    def write(commands: str) -> None:
        script = tmp_path / "c++"
        script.write_text(f'#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done\n{commands}\n')
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "ziglang", None)
    # An installed wheel brings the library with it; by another name there is none and it must be compiled.
    monkeypatch.setattr(cpu_build, "LIBRARY_NAME", f"not_shipped_{cpu_build.LIBRARY_NAME}")
    return write


@pytest.fixture
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def test_without_a_compiler(fresh_library, compiler, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert "install g++ or clang++" in cpu.available()


@pytest.mark.parametrize("other", [None, "too old"])
def test_ziglang_is_the_compiler_where_there_is_no_other(compiler, monkeypatch, tmp_path, other):
    if other is None:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", "")
    else:
        compiler('[ -z "$out" ] || { echo "bad value for -march" >&2; exit 1; }')
    monkeypatch.delitem(sys.modules, "ziglang")
    (tmp_path / "ziglang").mkdir()
    (tmp_path / "ziglang/__init__.py").touch()
    (tmp_path / "ziglang/__main__.py").write_text(
        "import os, pathlib, sys\n"
        "if '-o' in sys.argv:\n"
        "    out = pathlib.Path(sys.argv[sys.argv.index('-o') + 1])\n"
        "    out.write_text(' '.join(sys.argv[1:] + [os.environ['ZIG_GLOBAL_CACHE_DIR']]))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    library = cpu_build.cached_library()
    linked = library.read_text()
    assert linked.startswith("c++ -mcpu=baseline -shared")  # for every machine that sees this cache
    assert str(library.parent) in linked.split()[-1]  # not in the home, which may not be there


def test_a_failed_build_tells_what_the_compiler_said(fresh_library, compiler):
    compiler('case "$out" in *.o) echo "scan.cpp:1: what is this?" >&2; exit 1;; esac')
    assert "scan.cpp:1: what is this?" in cpu.available()


def test_a_library_that_does_not_load_is_a_reason(fresh_library, compiler):
    compiler('[ -z "$out" ] || echo nothing > "$out"')
    assert "selective_scan" in cpu.available()


def test_the_cache_is_used_again_until_something_changes(compiler):
    compiler('[ -z "$out" ] || echo one > "$out"')
    library = cpu_build.cached_library()
    compiled = library.stat().st_mtime_ns
    assert cpu_build.cached_library() == library
    assert library.stat().st_mtime_ns == compiled
    compiler('[ -z "$out" ] && echo version 2 || echo two > "$out"')
    assert cpu_build.cached_library() != library


@pytest.mark.parametrize("obstacle", ["file", "shared"])
def test_a_cache_that_cannot_be_used_is_replaced_by_the_temporary_folder(
    compiler, tmp_path, temporary_folder, obstacle
):
    compiler('[ -z "$out" ] || echo library > "$out"')
    if obstacle == "file":
        (tmp_path / "cache").write_text("not a folder")
    else:
        (tmp_path / "cache" / "nnunetv2_mamba").mkdir(parents=True)
        (tmp_path / "cache" / "nnunetv2_mamba").chmod(0o777)  # others could put their code there
    assert cpu_build.cached_library().parent.parent == temporary_folder


def test_no_folder_to_write_to_is_a_reason(fresh_library, compiler, tmp_path, temporary_folder):
    (tmp_path / "cache").write_text("not a folder")
    temporary_folder.rmdir()
    temporary_folder.write_text("not a folder")
    assert "set XDG_CACHE_HOME" in cpu.available()


def test_what_another_machine_has_put_in_place_meanwhile_stays(compiler):
    """It may have loaded it already; on NFS it loses what it has mapped of a file that is replaced."""
    compiler('[ -z "$out" ] || echo ours > "$out"')
    library = cpu_build.cached_library()
    library.unlink()
    compiler(f'[ -z "$out" ] || {{ echo ours > "$out"; echo theirs > {library}; }}')
    assert cpu_build.cached_library() == library
    assert library.read_text() == "theirs\n"


def test_processes_that_compile_at_once(compiler):
    compiler('[ -z "$out" ] || { sleep 0.1; echo whole >> "$out"; }')
    program = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('cpu_build', sys.argv[1])\n"
        "sys.modules['cpu_build'] = cpu_build = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(cpu_build)\n"
        "library = cpu_build.cached_library()\n"
        "print(library, library.read_text())\n"
    )
    command = [sys.executable, "-c", program, cpu_build.__file__]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(4)]
    outputs = {process.communicate()[0] for process in processes}
    assert len(outputs) == 1
    library, content = outputs.pop().split()
    assert content == "whole"
    assert [path.name for path in Path(library).parent.iterdir()] == [Path(library).name]


@pytest.mark.skipif(sys.platform == "win32", reason="the compiler is a shell script")
def test_what_a_compiler_says_may_be_in_any_encoding(tmp_path):
    """Paths in its messages are those of the user."""
    script = tmp_path / "c++"
    script.write_bytes(b"#!/bin/sh\nprintf 'caf\\351\\n' >&2\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(cpu_build.BuildError, match="cannot compile the CPU kernels.*\n.*caf"):
        cpu_build.Compiler((str(script),)).run(scratch=tmp_path)
