"""The whole command: files, nnU-Net's numbers, going on after a kill, refusals."""

import csv
import errno
import hashlib
import io
import json
import multiprocessing
import os
import signal
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from segmentation_folders import DATASET, write_cases, write_folders, write_image, write_json, write_results

from nnunetv2_mamba.cli import main
from nnunetv2_mamba.evaluation import evaluate_pairings as module
from nnunetv2_mamba.evaluation.evaluate_pairings import evaluate_pairings
from nnunetv2_mamba.evaluation.metric_options import MetricOptions
from nnunetv2_mamba.evaluation.metrics import metrics_of
from nnunetv2_mamba.evaluation.pairings import from_folders
from nnunetv2_mamba.evaluation.tables import read_metrics

CASES = ["a", "a_1", "b", "c"]


@pytest.fixture
def folders(tmp_path):
    return write_folders(tmp_path, CASES)


@pytest.fixture
def measured(monkeypatch):
    """Names of the prediction files that are measured."""
    names, measure = [], module.measure_files
    monkeypatch.setattr(module, "measure_files", lambda *a: names.append(a[1].name.split(".")[0]) or measure(*a))
    return names


def evaluate(folders, *options):
    return main(["evaluate", *map(str, folders), "-np", "1", *map(str, options)])


def error_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def same(found, expected):
    """Whether nested dicts and lists hold the same, NaN equal to NaN, for all that is expected."""
    if isinstance(expected, dict):
        return all(key in found and same(found[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == expected or (found != found and expected != expected)


def test_nnunets_own_numbers_are_in_it(folders):
    """The same keys, files and values to the last bit, and nnU-Net's own summary is left as it was."""
    references, predictions = folders
    summary_json = predictions / "summary.json"
    write_image(predictions / "b.nii.gz", np.zeros((12, 14, 16), np.uint8))  # so that a mean has an infinite distance
    with patch("multiprocessing.get_context", return_value=SimpleNamespace(Pool=ThreadPool)):
        compute_metrics_on_folder(
            str(references), str(predictions), str(summary_json), SimpleITKIO(), ".nii.gz", [1, 2, 3], num_processes=1
        )
    before = summary_json.read_bytes()
    assert evaluate(folders) == 0
    assert summary_json.read_bytes() == before
    written = predictions / "evaluation.json"
    assert same(json.loads(written.read_text()), json.loads(before))
    assert same(load_summary_json(str(written)), load_summary_json(str(summary_json)))
    content = json.loads(written.read_text())
    assert np.isnan(content["foreground_mean"]["Dice"]) and np.isnan(content["mean"]["3"]["hd95"])  # never there
    assert content["mean"]["1"]["hd95"] == np.inf and 0 < content["mean"]["1"]["nsd"] < 1


def test_the_table_is_what_is_in_the_json(folders):
    _, predictions = folders
    assert evaluate(folders, "--nsd-tolerance", 2) == 0
    content = json.loads((predictions / "evaluation.json").read_text())
    rows = [
        (case["case"], content["evaluation"]["labels"][key], metric, case["metrics"][key][metric])
        for case in content["metric_per_case"]
        for key in ("1", "2", "3")
        for metric in metrics_of()
    ]
    expected = pd.DataFrame(rows, columns=["case", "label", "metric", "value"])
    pd.testing.assert_frame_equal(read_metrics(predictions)[[*expected]], expected, check_exact=True)
    assert expected["case"].unique().tolist() == CASES
    assert (predictions / "evaluation.csv").read_text().startswith("case,label,metric,value\na,left,dice,0.")
    assert "a,never there,hd95,nan" in (predictions / "evaluation.csv").read_text()
    assert content["metric_per_case"][0]["spacing"] == pytest.approx([2.0, 0.8, 1.1])
    for case in content["metric_per_case"]:
        for name in ("reference", "prediction"):
            digest = hashlib.sha256(Path(case[f"{name}_file"]).read_bytes()).hexdigest()
            assert case[f"{name}_sha256"] == digest
    about = content["evaluation"]
    assert about["nsd_tolerance_mm"] == 2 and set(about["definitions"]) == set(metrics_of())
    assert "monai" in about["versions"] and any("infinite" in rule for rule in about["empty"])


@pytest.mark.slow
def test_processes_change_nothing(folders, tmp_path):
    assert evaluate(folders, "-o", tmp_path / "one") == 0
    assert evaluate(folders, "-o", tmp_path / "two", "-np", 2) == 0
    for name in ("evaluation.csv", "evaluation.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert {path.name for path in folders[1].iterdir()} == {f"{case}.nii.gz" for case in CASES}


def test_a_results_folder(tmp_path, monkeypatch, capsys):
    results, preprocessed = write_results(tmp_path, {"fold_0": ["a", "b"], "fold_1": ["c"]}, [["a", "b"], ["c"]])
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.parent))
    assert evaluate([results]) == 0
    assert "Means over 3 cases" in capsys.readouterr().out
    joined = read_metrics(results)
    assert evaluate([results / "fold_1"], "-o", tmp_path / "out") == 0
    expected = joined[joined["case"] == "c"].reset_index(drop=True)
    pd.testing.assert_frame_equal(read_metrics(tmp_path / "out"), expected, check_exact=True)
    assert evaluate([results], "--plans", results / "plans.json") == 1
    assert "leave the options out" in error_line(capsys)


def test_training_cases_are_said_to_be_such(tmp_path, monkeypatch, capsys):
    """Left out beside another fold; alone they are measured, and the numbers say what they are."""
    folds = {"fold_0": ["a"], "fold_all": ["a", "b"]}
    results, preprocessed = write_results(tmp_path, folds, [["a"], ["b"]])
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.parent))
    assert evaluate([results]) == 0
    said = capsys.readouterr().out
    assert "Means over 1 cases" in said and f"Note: {results}/fold_all is left out beside the other folds" in said
    assert not (results / "fold_all" / "validation" / "evaluation.csv").exists()
    about = json.loads((results / "fold_0" / "validation" / "evaluation.json").read_text())["evaluation"]
    assert about["training_cases"] is False
    (results / "fold_0").rename(tmp_path / "fold_0")
    assert evaluate([results]) == 0
    said = capsys.readouterr().out
    assert "Means over 2 cases" in said and "Note: the validation of fold_all is on the cases it was trained on" in said
    about = json.loads((results / "fold_all" / "validation" / "evaluation.json").read_text())["evaluation"]
    assert about["training_cases"] is True


# --- going on


def test_finished_cases_are_not_measured_again(folders, measured, monkeypatch):
    references, predictions = folders
    assert evaluate(folders) == 0
    assert measured == CASES
    first = (predictions / "evaluation.csv").read_bytes()

    def again(*options):
        measured.clear()
        assert evaluate(folders, *options) == 0
        return measured

    assert again() == [] and (predictions / "evaluation.csv").read_bytes() == first
    (predictions / "b.nii.gz").touch()
    assert again() == []
    write_cases(predictions, ["b"], 3)
    assert again() == ["b"] and (predictions / "evaluation.csv").read_bytes() != first
    write_cases(references, ["c"], 3)
    assert again() == ["c"]
    assert again("--nsd-tolerance", 2) == CASES
    assert again("--nsd-tolerance", 2, "--empty-distance", "diagonal") == CASES
    write_json(references.parent / "dataset.json", {**DATASET, "labels": {"background": 0, "one": 1, "two": 2}})
    assert again() == CASES
    monkeypatch.setattr(module, "versions", lambda: {"monai": "9"})
    assert again() == CASES
    (predictions / "evaluation_cases" / "a.json").write_text('{"key": ')
    assert again() == ["a"]


def test_a_table_that_stays_as_it_is_can_be_read_meanwhile(folders, monkeypatch):
    """Two sweeps in one folder end together: each evaluates, and compares while the other still evaluates."""
    table, seen, write = folders[1] / "evaluation.csv", [], module.write_json

    def look(path, *arguments, **options):
        if path.name == "evaluation.json":
            seen.append(table.is_file())
        write(path, *arguments, **options)

    monkeypatch.setattr(module, "write_json", look)
    assert evaluate(folders) == 0 and evaluate(folders) == 0
    write_cases(folders[1], ["b"], 3)
    assert evaluate(folders) == 0
    assert seen == [False, True, False]


@pytest.mark.skipif(os.name == "nt", reason="forks, and kills")
@pytest.mark.parametrize("moment", ["measuring", "writing"])
def test_killed_and_started_again(moment, folders, tmp_path, measured):
    """kill -9 in the third case, or with its result half written: the others are kept, the end is the same."""
    references, predictions = folders

    def die_in_the_third_case():
        place, name = {"measuring": (module, "measure_files"), "writing": (module.os, "fsync")}[moment]
        fatal = {"measuring": 3, "writing": 5}[moment]  # two for each case that is written: the file and its folder
        original, calls = getattr(place, name), []

        def count(*arguments):
            calls.append(arguments)
            if len(calls) == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        with patch.object(place, name, count):
            evaluate(folders)

    process = multiprocessing.get_context("fork").Process(target=die_in_the_third_case)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not list(predictions.glob("evaluation.*"))
    finished = predictions / "evaluation_cases"
    assert {path.name for path in finished.glob("[!.]*.json")} == {"a.json", "a_1.json"}
    assert len(list(finished.glob(".partial*"))) == (moment == "writing")

    measured.clear()
    assert evaluate(folders) == 0
    assert measured == ["b", "c"]
    assert not list(predictions.rglob(".partial*"))
    assert evaluate(folders, "-o", tmp_path / "uninterrupted") == 0
    for name in ("evaluation.csv", "evaluation.json"):
        assert (predictions / name).read_bytes() == (tmp_path / "uninterrupted" / name).read_bytes()


def test_a_disk_that_is_full(folders, monkeypatch, capsys):
    """No table that is half written, an old one is not passed off as the new summary's, and the file is named."""
    assert evaluate(folders) == 0
    table = folders[1] / "evaluation.csv"
    same = table.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    assert evaluate(folders) == 1
    assert f"No space left on device: '{folders[1] / 'evaluation.json'}'" in error_line(capsys)
    assert table.read_bytes() == same
    table.write_bytes(same[:-2])  # an old one
    assert evaluate(folders) == 1
    assert not table.exists() and not list(folders[1].glob(".partial*"))


@pytest.mark.skipif(os.name == "nt", reason="forks, and kills")
def test_two_at_one_output(folders, tmp_path):
    """Each in a process of its own, starting together: both succeed, and the files are whole and the same."""
    assert evaluate(folders, "-o", tmp_path / "alone") == 0
    context = multiprocessing.get_context("fork")
    together = context.Barrier(2)

    def evaluate_with_another():
        together.wait(60)
        os._exit(evaluate(folders, "-o", tmp_path / "both"))

    processes = [context.Process(target=evaluate_with_another) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    names = [path.relative_to(tmp_path / "both") for path in (tmp_path / "both").rglob("*") if path.is_file()]
    assert len(names) == len(CASES) + 2
    for name in names:
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


@pytest.mark.parametrize("content", ["[]", "null", "5", '"text"', "", '{"key": ', "\0\0\0", "[" * 100_000])
def test_a_kept_result_that_is_damaged_is_measured_again(content, folders, measured):
    assert evaluate(folders) == 0
    before = (folders[1] / "evaluation.csv").read_bytes()
    (folders[1] / "evaluation_cases" / "b.json").write_text(content)
    measured.clear()
    assert evaluate(folders) == 0
    assert measured == ["b"] and (folders[1] / "evaluation.csv").read_bytes() == before


def test_a_kept_result_that_was_changed_is_measured_again(folders, measured):
    assert evaluate(folders) == 0
    before = (folders[1] / "evaluation.csv").read_bytes()
    for change in (lambda result: result.clear(), lambda result: result["metrics"]["1"].update(dice=1.0)):
        file = folders[1] / "evaluation_cases" / "b.json"
        kept = json.loads(file.read_text())
        change(kept["result"])
        file.write_text(json.dumps(kept))
        measured.clear()
        assert evaluate(folders) == 0
        assert measured == ["b"] and (folders[1] / "evaluation.csv").read_bytes() == before


# --- what is said


def test_regions_that_nnunet_cannot_write_are_said(tmp_path, capsys):
    """A perfect network, its output written by nnU-Net in an order that contradicts the regions."""
    labels = {"background": 0, "whole": [1, 2], "core": 1}
    references = write_cases(tmp_path / "labelsTs", ["a"], 1)
    predictions = write_cases(tmp_path / "predictions", ["a"], 1)
    write_json(tmp_path / "dataset.json", {**DATASET, "labels": labels, "regions_class_order": [2, 1]})
    assert evaluate((references, predictions)) == 0
    assert "Note" not in capsys.readouterr().out
    write_json(tmp_path / "dataset.json", {**DATASET, "labels": labels, "regions_class_order": [1, 2]})
    assert evaluate((references, predictions)) == 0
    assert "Note: regions_class_order [1, 2] contradicts the regions: nnU-Net writes" in capsys.readouterr().out
    assert len(json.loads((predictions / "evaluation.json").read_text())["evaluation"]["notes"]) == 2


def test_a_case_of_two_folds_counts_once(tmp_path, monkeypatch, capsys):
    splits = [["a", "b"], ["b"]]
    results, preprocessed = write_results(tmp_path, {"fold_0": ["a", "b"], "fold_1": ["b"]}, splits)
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.parent))
    assert evaluate([results]) == 0
    said = capsys.readouterr().out
    assert "Note: 1 of the cases are validated by more than one fold: b (fold_0, fold_1)." in said
    dice = {
        case: pd.read_csv(results / "fold_0" / "validation" / "evaluation.csv")
        .query(f"case == '{case}'")["value"]
        .iloc[0]
        for case in ("a", "b")
    }
    shown = next(float(line.split()[1]) for line in said.splitlines() if line.startswith("left"))
    assert "Means over 2 cases" in said and shown == pytest.approx((dice["a"] + dice["b"]) / 2, abs=1e-4)


@pytest.mark.skipif(os.name == "nt", reason="no names of files there")
def test_names_are_no_formulas_and_no_commands_of_a_terminal(tmp_path, capsys):
    names = ["=1+1", "@SUM(A1)", "-2", "'quoted'", "\x1b]0;pwned\x07\x1b[31m"]
    references = write_cases(tmp_path / "labelsTs", ["=cmd|'x'!A1", "b"], 1)
    predictions = write_cases(tmp_path / "predictions", ["=cmd|'x'!A1", "b"], 2)
    labels = {"background": 0} | {name: value for value, name in enumerate(names, 1)}
    write_json(tmp_path / "dataset.json", {**DATASET, "labels": labels})
    assert evaluate((references, predictions)) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\\x1b]0;pwned" in said
    cells = {cell for row in csv.reader((predictions / "evaluation.csv").open()) for cell in row}
    assert not any(cell.startswith(("=", "@", "-", "+")) for cell in cells) and "'=cmd|'x'!A1" in cells
    table = read_metrics(predictions)
    assert table["label"].unique().tolist() == names and table["case"].unique().tolist() == ["=cmd|'x'!A1", "b"]


def test_an_output_that_is_closed_or_knows_no_accents(tmp_path):
    """The results are there and the exit code says so."""
    folders = write_folders(tmp_path, ["ä", "b"])

    def without_output():
        os.close(1)
        sys.stdout = sys.__stdout__
        code = evaluate(folders, "-o", tmp_path / "closed")
        sys.stdout.flush()
        os._exit(code)

    def in_ascii():
        sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        code = evaluate(folders, "-o", tmp_path / "ascii Müller")
        sys.stdout.flush()
        os._exit(code or 10 * (b"ascii M\\xfcller" not in sys.stdout.buffer.getvalue()))

    for target in (without_output, in_ascii):
        process = multiprocessing.get_context("fork").Process(target=target)
        process.start()
        process.join()
        assert process.exitcode == 0, target
    for name in ("closed", "ascii Müller"):
        assert (tmp_path / name / "evaluation.csv").is_file()


# --- refusals


def test_a_prediction_that_is_cut_short(folders, capsys):
    """As ../cases: half of a file is lost, and its Dice was that of zeros."""
    file = folders[1] / "b.nii.gz"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert evaluate(folders) == 1
    assert f"1 of 4 cases cannot be evaluated: {file} is damaged" in error_line(capsys)
    assert not (folders[1] / "evaluation.csv").exists()


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_pipe_is_not_waited_for(folders, capsys):
    for folder, name in zip(folders, ("a", "b"), strict=True):
        (folder / f"{name}.nii.gz").unlink()
        os.mkfifo(folder / f"{name}.nii.gz")
    assert evaluate(folders) == 1
    line = error_line(capsys)
    assert "2 of 4 cases" in line
    for folder, name in zip(folders, ("a", "b"), strict=True):
        assert f"{folder}/{name}.nii.gz cannot be read: it is no regular file" in line


def test_all_that_is_wrong_is_named_and_nothing_written(folders, capsys, measured):
    references, predictions = folders
    write_image(predictions / "a.nii.gz", np.zeros((12, 14, 17), np.uint8))
    write_image(references / "b.nii.gz", np.full((12, 14, 16), 7, np.uint8))
    assert evaluate(folders) == 1
    line = error_line(capsys)
    assert line.startswith("nnunetv2_mamba evaluate: 2 of 4 cases cannot be evaluated: ")
    assert f"{predictions}/a.nii.gz lies elsewhere than {references}/a.nii.gz: shape (12, 14, 16)" in line
    assert f"{references}/b.nii.gz has values that are no label in dataset.json: 7" in line
    assert not list(predictions.glob("evaluation.*"))
    write_cases(predictions, ["a"], 2)
    write_cases(references, ["b"], 1)
    measured.clear()
    assert evaluate(folders) == 0
    assert measured == ["a", "b"]  # the others were kept


def test_missing_cases_are_one_line(folders, capsys):
    (folders[1] / "b.nii.gz").unlink()
    assert evaluate(folders) == 1
    assert error_line(capsys).endswith(f"no prediction in {folders[1]} for b")
    assert [path.name for path in folders[1].glob("evaluation*")] == []


@pytest.mark.parametrize(
    ("options", "message"), [(["-np", "0"], "-np must be at least 1"), (["--nsd-tolerance", "-1"], "tolerance of NSD")]
)
def test_wrong_options(options, message, folders, capsys):
    assert evaluate(folders, *options) == 1
    assert message in error_line(capsys)


@pytest.mark.skipif(os.name == "nt", reason="forks, and kills")
@pytest.mark.slow  # processes that import torch
def test_a_worker_that_is_killed(folders, monkeypatch):
    """As the system does where memory runs out: an error with a remedy, not a wait for ever."""
    pairing = from_folders(*folders)
    started = []
    submit = module.ProcessPoolExecutor.submit

    def kill_after(self, *arguments):
        future = submit(self, *arguments)
        started.append(future)
        if len(started) == len(CASES):
            for process in self._processes.values():
                os.kill(process.pid, signal.SIGKILL)
        return future

    monkeypatch.setattr(module.ProcessPoolExecutor, "submit", kill_after)
    with pytest.raises(OSError, match="killed, maybe for memory; run again with a smaller -np"):
        evaluate_pairings([pairing], MetricOptions(), 2)
    monkeypatch.undo()
    (table,) = evaluate_pairings([pairing], MetricOptions(), 1)
    assert set(table["case"]) == set(CASES)
