"""What a wheel must be before it is published: small, and its library for its system, needing nothing but that."""

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import lief

LARGEST = {".whl": 3_000_000, ".gz": 8_000_000}  # bytes; the sources have the documentation with its pictures, twice
# By the beginning of the platform. Versions of glibc are for auditwheel to check. Musl takes any libc.so for itself.
ALLOWED = {
    "manylinux": r"lib(c|m|pthread)\.so\.\d|ld-linux-.*",
    "musllinux": r"libc\.so",
    "macosx": r"/usr/lib/libSystem\.B\.dylib|@rpath/selective_scan\.dylib",  # the second is its own name
    "win": r"(?i)kernel32\.dll|api-ms-win-crt-.*\.dll",
}
EXPORTED = r"_?nm_\w+|___dso_handle|__mh_dylib_header"  # the last two name the file itself
MACHINES = {"X86_64": "x86_64 amd64", "AMD64": "x86_64 amd64", "AARCH64": "aarch64 arm64", "ARM64": "aarch64 arm64"}


def problems_of(file: Path) -> list[str]:
    """What is wrong with a wheel or source distribution, a line each."""
    size, largest = file.stat().st_size, LARGEST[file.suffix]
    problems = [] if size < largest else [f"{size} bytes, more than {largest}"]
    if file.suffix == ".whl":
        platform = _platform(file)
        libraries = _libraries(file)
        if len(libraries) != (platform != "any"):
            problems.append(f"{len(libraries)} libraries")
        for name, content in libraries.items():
            problems += [f"{name} {problem}" for problem in library_problems(content, platform)]
        if platform.startswith("manylinux"):  # elsewhere it takes glibc's libc.so, a text, for musl's
            problems += _auditwheel(file, platform)
    return [f"PROBLEM {file.name}: {problem}" for problem in problems]


def summary(file: Path) -> str:
    """A line with the size, the digest and, of a wheel, what its library needs."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    needed = [name for content in _libraries(file).values() for name in _needed(lief.parse(content))]
    return (
        f"{file.name}: {file.stat().st_size:,} bytes, sha256 {digest}{', needs ' if needed else ''}{' '.join(needed)}"
    )


def library_problems(content: bytes, platform: str) -> list[str]:
    """What is wrong with a library for the platform of a wheel."""
    library = lief.parse(content)
    (allowed,) = (pattern for start, pattern in ALLOWED.items() if platform.startswith(start))
    problems = [f"needs {name}" for name in _needed(library) if not re.fullmatch(allowed, name)]
    problems += [f"exports {name}" for name in _exported(library) if not re.fullmatch(EXPORTED, name)]
    if not _exported(library):
        problems.append("exports nothing")
    machine = _machine(library)
    if not platform.endswith(tuple(MACHINES[machine].split())):
        problems.append(f"is for {machine}")
    if isinstance(library, lief.MachO.Binary):
        oldest = library.build_version.minos[:2]
        if "macosx_{}_{}_".format(*oldest) != re.match(r"macosx_\d+_\d+_", platform)[0]:
            problems.append(f"is for macOS {oldest}")
    return problems


def _platform(wheel: Path) -> str:
    return wheel.stem.rpartition("-")[2]


def _libraries(file: Path) -> dict[str, bytes]:
    if file.suffix != ".whl":
        return {}
    with zipfile.ZipFile(file) as archive:
        return {
            name: archive.read(name) for name in archive.namelist() if name.endswith((".so", ".dylib", ".dll", ".pyd"))
        }


def _needed(library: lief.Binary) -> list[str]:
    return sorted(name if isinstance(name, str) else name.name for name in library.libraries)


def _exported(library: lief.Binary) -> list[str]:
    return sorted(function.name for function in library.exported_functions)


def _machine(library: lief.Binary) -> str:
    header = library.header
    for field in ("machine_type", "cpu_type", "machine"):
        if hasattr(header, field):
            return getattr(header, field).name
    raise ValueError("no known kind of library")


def _auditwheel(wheel: Path, platform: str) -> list[str]:
    command = [sys.executable, "-m", "auditwheel", "show", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or f'"{platform}"' not in " ".join(done.stdout.split()):
        return [f"auditwheel show: {done.stdout}{done.stderr}"]
    return []
