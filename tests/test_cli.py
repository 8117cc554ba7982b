"""The command line: arguments, exit codes, one-line errors."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nnunetv2_mamba
from nnunetv2_mamba.cli import VERBS, main


@pytest.mark.parametrize("arguments", [[], ["docktor"], ["import-weights", "x.pth"], ["demo", "--fast"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: nnunetv2_mamba" in capsys.readouterr().err


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert [verb for verb in VERBS if not re.search(rf"^ +{verb}\b", text, re.MULTILINE)] == []


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_ends_with_examples_that_are_understood(verb, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    printed = [line.strip() for line in capsys.readouterr().out.partition("\nexamples:\n")[2].splitlines()]
    assert printed == list(VERBS[verb].EXAMPLES) != []
    monkeypatch.setattr(VERBS[verb], "run", lambda args: 0)
    for example in printed:
        name, *arguments = shlex.split(example)
        assert (name, arguments[0]) == ("nnunetv2_mamba", verb)
        assert main(arguments) == 0


def test_completion_of_verbs_options_and_choices(capsys):
    pytest.importorskip("shtab", reason='pip install "nnunetv2-mamba[completion]"')
    bash = shutil.which("bash") or pytest.skip("there is no bash")
    with pytest.raises(SystemExit) as exit_:
        main(["--print-completion", "bash"])
    assert exit_.value.code == 0
    script = capsys.readouterr().out

    def completed(*words: str) -> set[str]:
        line = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
        ask = 'function=$(complete -p nnunetv2_mamba | sed "s/.*-F \\([^ ]*\\).*/\\1/")\n$function\n'
        command = [bash, "-c", f'{script}\n{line}{ask}echo "${{COMPREPLY[@]}}"']
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())

    assert completed("nnunetv2_mamba", "predict") >= {"predict", "predict-roi"}
    assert completed("nnunetv2_mamba", "networks", "--js") == {"--json"}
    assert completed("nnunetv2_mamba", "package", "--for", "gr") == {"grand-challenge"}
    assert completed("nnunetv2_mamba", "import-weights", "/etc/host") >= {"/etc/hosts"}


def test_completion_needs_shtab(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as exit_:
        main(["--print-completion", "bash"])
    assert exit_.value.code == 2
    assert "pip install nnunetv2-mamba[completion]" in capsys.readouterr().err


def one_error_line(capsys) -> str:
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    return line


def test_missing_weights_are_one_line(tmp_path, capsys):
    assert main(["import-weights", str(tmp_path / "none.pth"), "-o", str(tmp_path / "out.pth")]) == 1
    assert one_error_line(capsys).startswith("nnunetv2_mamba import-weights: ")
    assert not (tmp_path / "out.pth").exists()


def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path, capsys):
    (tmp_path / "text.pth").write_text("not a checkpoint")
    assert main(["import-weights", str(tmp_path / "text.pth"), "-o", str(tmp_path / "out.pth")]) == 1
    assert "text.pth" in one_error_line(capsys)
    assert not (tmp_path / "out.pth").exists()


def test_import_weights_passes_its_arguments_on(monkeypatch, capsys):
    from nnunetv2_mamba.architectures import released_weights

    calls = []
    monkeypatch.setattr(released_weights, "convert", lambda *a, **k: calls.append((a, k)) or "a summary")
    assert main(["import-weights", "in.pth", "-o", "out.pth"]) == 0
    assert calls == [((Path("in.pth"), Path("out.pth")), {})]
    assert capsys.readouterr().out == "a summary\n"


def test_the_demo_leaves_other_folders_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("all of it")
    assert main(["demo", "-o", str(tmp_path)]) == 1
    assert "name a new folder with -o" in one_error_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_it_runs_as_a_module(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(nnunetv2_mamba.__file__).parents[1])}
    command = [sys.executable, "-m", "nnunetv2_mamba", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0
    assert result.stdout.startswith("usage: nnunetv2_mamba")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a.nii.gz is cut"), "a.nii.gz is cut"),
        (RuntimeError("out of\n memory"), "out of memory"),
        (ImportError("No module named 'fcntl'"), "No module named 'fcntl'"),
        (OSError(28, "No space left on device", "x.csv"), "[Errno 28] No space left on device: 'x.csv'"),
        (ValueError("label \x1b[31m"), r"label \x1b[31m"),
        (KeyError("metrics"), "KeyError: 'metrics' (--debug shows where)"),
        (RecursionError("maximum recursion depth exceeded"), "maximum recursion depth exceeded"),
        (MemoryError(), "MemoryError: no message (--debug shows where)"),
    ],
)
def test_every_failure_is_one_line(error, line, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr("nnunetv2_mamba.commands.doctor.run", fail)
    assert main(["doctor"]) == 1
    assert one_error_line(capsys) == f"nnunetv2_mamba doctor: {line}"
    assert main(["doctor", "--debug"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and err.splitlines()[-1] == f"nnunetv2_mamba doctor: {line}"


def test_an_encoding_that_lacks_a_letter_is_no_failure(tmp_path):
    """A terminal in ASCII and a folder named in Japanese: the message must arrive."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(nnunetv2_mamba.__file__).parents[1]),
        "PYTHONIOENCODING": "ascii:strict",
    }
    command = [sys.executable, "-m", "nnunetv2_mamba", "import-weights", "患者.pth", "-o", "x.pth"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [result.stderr.strip()]
    assert r"\u60a3\u8005.pth" in result.stderr
