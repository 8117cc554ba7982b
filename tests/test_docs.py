"""The documentation: its command blocks are run, what it names exists, its links lead somewhere, the site is built."""

import ast
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from commands import run
from documentation import BLOCKS, FENCE, PAGES, ROOT, Block
from test_imports import ALLOWED
from tiny_dataset import DATASET_ID

import nnunetv2_mamba
from nnunetv2_mamba import cli

HERE = "tests/test_docs.py"
TUTORIAL = "tests/test_tutorial.py"  # runs every block of its page, in order
STOCK_TRAINERS = {"nnUNetTrainer", "nnUNetTrainerNoMirroring", "nnUNetTrainerNoDeepSupervision"}
SHORT = "num_epochs=1, num_iterations_per_epoch=1, num_val_iterations_per_epoch=1"
ONE_CALL = {"doctor": r"doctor\.examine\(", "demo": r"pipeline\.run\("}  # verbs that do nothing else
SHELL = [block for block in BLOCKS if block.language in ("bash", "console", "sh", "shell", "powershell")]
PYTHON = [
    block for block in BLOCKS if block.language in ("python", "py") and block.comment != f"executed by {TUTORIAL}"
]


def named(blocks: list[Block]) -> list:
    return [pytest.param(block, id=f"{block.page}:{block.line}") for block in blocks]


def what_runs_it(words: list[str]) -> str:
    """What stands, as a regular expression, in a test that runs the command."""
    if words[0] == "nnunetv2_mamba":  # the verb as the first argument of cli.main or of the command
        call = rf'(\bmain\(|"nnunetv2_mamba",|command =)\s*\[?\s*"{words[1]}"'
        return rf"{call}|{ONE_CALL[words[1]]}" if words[1] in ONE_CALL else call
    if words[0] == "python":
        return re.escape(Path(words[1]).name)
    if words[0] == "pip":
        return words[1]
    return rf'"{words[0]}"|\brun_{re.escape(words[0].removeprefix("nnUNetv2_"))}'


@pytest.mark.parametrize("block", named(SHELL))
def test_every_command_block_is_run_by_a_test_or_says_why_not(block):
    if reason := re.fullmatch(r"not executed: (.+)", block.comment):
        assert len(reason[1].split()) > 2
        return
    files = re.fullmatch(r"executed by (.+)", block.comment)
    assert files, "needs a comment before it: <!-- executed by tests/FILE.py --> or <!-- not executed: REASON -->"
    if HERE in files[1] or files[1] == TUTORIAL:
        return
    tests = "".join((ROOT / file).read_text(encoding="utf-8") for file in re.findall(r"tests/\S+\.py", files[1]))
    missing = [shlex.join(words) for words in block.commands if not re.search(what_runs_it(words), tests)]
    assert not missing, f"{files[1]} does not run {missing}"


@pytest.mark.slow
@pytest.mark.parametrize("block", named([block for block in SHELL if block.comment == f"executed by {HERE}"]))
def test_command_blocks_run_on_a_tiny_data_set(block, tiny_dataset_files, use_dataset, tmp_path, monkeypatch):
    for part in ("raw", "preprocessed"):
        shutil.copytree(getattr(tiny_dataset_files, part), tmp_path / part)
    dataset = use_dataset(replace(tiny_dataset_files, raw=tmp_path / "raw", preprocessed=tmp_path / "preprocessed"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")  # nnU-Net's planner needs at least 1
    to_match = dataset.plans("nnUNetPlans")
    for configuration in to_match["configurations"].values():
        configuration["batch_size"] = 200
    dataset.write_plans("nnUNetResEncUNetLPlans", to_match)
    (tmp_path / "images").mkdir()
    for file in dataset.images.glob("case_0_*"):
        shutil.copy(file, tmp_path / "images")
    here = {"4": DATASET_ID, "ID": DATASET_ID, "IMAGES": tmp_path / "images", "OUT": tmp_path / "out"}
    for name, *arguments in block.commands:
        arguments = [here.get(argument, argument) for argument in arguments]
        if name == "nnunetv2_mamba":
            subprocess.run([sys.executable, "-m", name, *map(str, arguments)], cwd=tmp_path, check=True)
            continue
        if name in ("nnUNetv2_train", "nnUNetv2_predict"):
            arguments += ["-device", "cpu"]
        run(tmp_path, name, *arguments, settings=SHORT)
    assert "nnUNetv2_predict" not in block.body or list((tmp_path / "out").glob("*.nii.gz"))


@pytest.mark.parametrize("block", named(PYTHON))
def test_python_blocks_run(block, tmp_path, monkeypatch):
    if not block.comment.startswith(("not executed: ", "file: ")):
        monkeypatch.chdir(tmp_path)
        exec(compile(ast.parse(block.body), f"{block.page}:{block.line}", "exec"), {})
    else:
        compile(block.body, block.page, "exec")


@pytest.mark.parametrize("block", named(SHELL))
def test_our_commands_are_understood(block, monkeypatch, capsys):
    for command in cli.VERBS.values():
        monkeypatch.setattr(command, "run", lambda args: 0)
    for words in block.commands:
        if words[0] == "nnunetv2_mamba":
            arguments = ["4" if word == "ID" else word for word in words[1:]]
            try:
                assert cli.main(arguments) == 0
            except SystemExit as exit_:
                pytest.fail(f"{shlex.join(words)}: {capsys.readouterr().err}") if exit_.code else None


def test_verbs_and_options_within_the_text_exist(capsys):
    unknown = []
    for page in PAGES:
        for verb, rest in re.findall(r"`nnunetv2_mamba ([a-z][a-z-]*)([^`]*)`", page.read_text(encoding="utf-8")):
            options = re.findall(r"(?<!\S)--?[a-z][\w-]*", rest)
            known = options_of_verb(verb, capsys) if verb in cli.VERBS else ()
            unknown += [(page.name, verb, option) for option in options or [""] if option and option not in known]
            unknown += [(page.name, verb)] if verb not in cli.VERBS else []
    assert not unknown


def options_of_verb(verb: str, capsys) -> set[str]:
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", capsys.readouterr().out))


def options_of_nnunet(name: str) -> set[str]:
    (command,) = entry_points(group="console_scripts", name=name)
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), pytest.raises(SystemExit):
        patch.setattr(sys, "argv", [name, "--help"])
        command.load()()
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", output.getvalue()))


def test_commands_of_nnunet_know_the_options():
    commands = [words for block in SHELL for words in block.commands if words[0].startswith("nnUNetv2_")]
    assert commands
    for name in {words[0] for words in commands}:
        options = {word for words in commands if words[0] == name for word in words if re.match("--?[a-zA-Z]", word)}
        assert options <= options_of_nnunet(name), name


def test_trainers_exist():
    from nnunetv2_mamba import trainers

    trainer = re.compile(r"\bnnUNetTrainer\w*?(?=__|\b)")  # in the name of a results folder two underscores end it
    names = {name for page in PAGES for name in trainer.findall(page.read_text(encoding="utf-8"))} - STOCK_TRAINERS
    examples = {name for block in PYTHON for name in re.findall(r"^class (\w+)", block.body, re.MULTILINE)}
    assert len(names) > 10
    assert names <= {*trainers.__all__, *examples, *(f"nnUNetTrainer{name}" for name in examples)}


def test_variables_exist():
    sources = [*(ROOT / "nnunetv2_mamba").rglob("*.py"), ROOT / "hatch_build.py"]
    known = {name for path in sources for name in re.findall(r"NNUNETV2_MAMBA_\w+", path.read_text(encoding="utf-8"))}
    named_in = {page.name: re.findall(r"NNUNETV2_MAMBA_[A-Z_]*[A-Z]", page.read_text("utf-8")) for page in PAGES}
    assert known == set(named_in["installation.md"])  # the table there is complete
    assert known >= {name for names in named_in.values() for name in names}


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.split("#")[0]).is_file(), target


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason='pip install "nnunetv2-mamba[docs]" builds the site')
    pytest.importorskip("material", reason='pip install "nnunetv2-mamba[docs]" builds the site')
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    offline = os.environ | {"OFFLINE": "true"}  # as the source distribution has it
    result = subprocess.run(command, cwd=ROOT, env=offline, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "site" / "search" / "search_index.js").is_file()
    html = [path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")]
    fetched = re.compile(
        r"<(?:script|img|iframe|link(?! rel=.?canonical))\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>"
    )
    assert all(f"nnunetv2-mamba {nnunetv2_mamba.__version__}" in page for page in html if "md-footer" in page)
    assert len(html) > 10 and not [tag for page in html for tag in fetched.findall(page)]
    (page,) = (page for page in html if "<title>SegMamba - " in page)
    assert ">GSC, 2 × ToM</text>" in page and ".svg" not in page  # drawings are in the page, their text is found
    assert "[data-md-color-scheme=slate]{.drawing{" in page and "prefers-color-scheme:dark" not in page
    styles = [
        path.read_text(encoding="utf-8") for kind in ("css", "svg") for path in (tmp_path / "site").rglob(f"*.{kind}")
    ]
    assert len(styles) > 10 and not [
        style for style in styles if re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style)
    ]


def test_the_import_diagram_is_the_one_that_is_tested():
    drawn = {}
    for line in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"([\w, ]+?) +→ (.+)", line):
            below = set() if match[2] == "nothing of ours" else set(match[2].split(", "))
            drawn |= dict.fromkeys(match[1].split(", "), below)
    assert drawn == {room: below for room, below in ALLOWED.items() if not room.startswith("__")}


def test_version_and_citation_agree():
    yaml = pytest.importorskip("yaml", reason="comes with nnU-Net's dependencies")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version, licence = (re.search(rf'^{key} = "(.+)"$', pyproject, re.MULTILINE)[1] for key in ("version", "license"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (version, licence)
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
