"""The verb: what it takes, what it says, and what it refuses."""

import csv
import errno
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path
from unittest.mock import patch

import pytest
from made_up_models import results_folder, table_of

from nnunetv2_mamba.cli import main
from nnunetv2_mamba.evaluation import compare_results as compare_module
from nnunetv2_mamba.evaluation import statistics
from nnunetv2_mamba.evaluation.compare_results import compare_results
from nnunetv2_mamba.evaluation.compare_tables import compare_tables
from nnunetv2_mamba.evaluation.evaluated_model import read_evaluated_model
from nnunetv2_mamba.evaluation.metrics import METRICS
from nnunetv2_mamba.evaluation.provenance import notes
from nnunetv2_mamba.evaluation.report.case_images import extremes
from nnunetv2_mamba.evaluation.report.report_files import values_csv, write_files
from nnunetv2_mamba.evaluation.report.summary_tables import overview
from nnunetv2_mamba.evaluation.report.wording import findings
from nnunetv2_mamba.evaluation.tables import format_metrics, read_metrics
from nnunetv2_mamba.results.costs import median_costs
from nnunetv2_mamba.results.trained_model import read_trained_model


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 199)


def test_one_result_is_refused(tmp_path, capsys):
    folder = results_folder(tmp_path, "nnUNetTrainer", table_of())
    assert main(["compare", str(folder), "-o", str(tmp_path / "out")]) == 1
    assert "at least two models" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_cases_are_listed_on_one_line(tmp_path, capsys):
    whole = results_folder(tmp_path, "nnUNetTrainer", table_of())
    part = results_folder(tmp_path, "nnUNetTrainerSegMamba", table_of().query("case > 'case_02'"))
    assert main(["compare", str(whole), str(part), "-o", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "SegMamba lacks dice of case case_00, case case_01, case case_02" in error and error.count("\n") == 1


def test_names_must_fit(tmp_path, capsys):
    folders = [str(results_folder(tmp_path / str(i), "nnUNetTrainer", table_of())) for i in range(2)]
    assert main(["compare", *folders, "--names", "A"]) == 1
    assert "--names has 1 names for 2 results" in capsys.readouterr().err
    assert main(["compare", *folders]) == 1
    assert "several results would be called the same (nnUNetTrainer, nnUNetTrainer)" in capsys.readouterr().err


def test_results_without_evaluation_are_refused_with_the_remedy(tmp_path, capsys):
    folders = [results_folder(tmp_path, f"nnUNetTrainer{i}", table_of()) for i in range(2)]
    (folders[1] / "fold_1" / "validation" / "evaluation.csv").unlink()
    assert main(["compare", *map(str, folders)]) == 1
    assert "nnunetv2_mamba evaluate" in capsys.readouterr().err


@pytest.fixture
def no_report(monkeypatch):
    """Only the comparison is computed: figures take seconds."""
    monkeypatch.setattr(compare_module, "make_files", lambda *_: {})


def add_fold_all(folder, table):
    """A fold of all cases, perfect in every one, as a training set is."""
    validation = folder / "fold_all" / "validation"
    validation.mkdir(parents=True)
    (validation / "evaluation.csv").write_text(format_metrics(table.assign(value=1.0)))
    (folder / "fold_all" / "cost.json").write_text('{"parameters": 9e9}')


def test_the_fold_of_all_cases_changes_no_number(tmp_path, no_report):
    folders = [results_folder(tmp_path, name, table_of(0, i)) for i, name in enumerate(("First", "Second"))]
    expected = compare_results(folders, tmp_path / "out", metrics=["dice"])
    add_fold_all(folders[0], table_of())
    found = compare_results(folders, tmp_path / "out", metrics=["dice"])
    assert found.structures[0].results == expected.structures[0].results
    assert found.notes[0].startswith(f"{folders[0]}/fold_all is left out beside the other folds")
    assert median_costs(fold.cost for fold in read_trained_model(folders[0]).folds) == {}


def test_a_comparison_on_training_cases_says_so(tmp_path, no_report):
    folders = [results_folder(tmp_path, name, table_of(0, i)) for i, name in enumerate(("First", "Second"))]
    add_fold_all(folders[0], table_of())
    for fold in ("fold_0", "fold_1"):
        shutil.rmtree(folders[0] / fold)
    for first in (folders[0], folders[0] / "fold_all", folders[0] / "fold_all" / "validation" / "evaluation.csv"):
        notes = compare_results([first, folders[1]], tmp_path / "out", ["A", "B"], ["dice"]).notes
        assert notes[0].startswith(f"{first}: the validation of fold_all is on the cases it was trained on")
    moved = shutil.copytree(folders[0] / "fold_all" / "validation", tmp_path / "moved")
    (moved / "evaluation.json").write_text('{"evaluation": {"training_cases": true}}')
    assert str(moved) in compare_results([moved, folders[1]], tmp_path / "out", ["A", "B"], ["dice"]).notes[0]


def test_repetitions_may_be_predictions_and_a_model(tmp_path):
    folders = [results_folder(tmp_path / str(i), "nnUNetTrainer", table_of(0, i)) for i in range(3)]
    for folder in folders:
        shutil.rmtree(folder / "fold_1")
    paths = [folders[0] / "fold_0" / "validation", *folders[1:]]
    compare_results(paths, tmp_path / "out", ["A", "A", "B"], ["dice"])
    text = (tmp_path / "out" / "methods.txt").read_text()
    assert "A (validation, nnUNetTrainer), B (nnUNetTrainer): nnUNetPlans, 3d_fullres" in text


RECORD = {
    "labels": {"1": "Anterior", "2": "Posterior"},
    "nsd_tolerance_mm": 1.0,
    "empty_distance": "inf",
    "versions": {"monai": "1.5", "scipy": "1.17"},
}


@pytest.fixture
def recorded(tmp_path, no_report):
    """Two models of two folds with predictions and ``evaluation.json``; and a function that changes a fold's record."""
    folders = [results_folder(tmp_path, name, table_of(0, i)) for i, name in enumerate(("First", "Second"))]

    def record(model, fold, references="gt", holding=None, **changes):
        validation = folders[model] / f"fold_{fold}" / "validation"
        cases = sorted(read_metrics(validation)["case"].unique())
        per_case = []
        for case in cases:
            prediction = validation / f"{case}.nii.gz"
            prediction.touch()
            per_case.append(
                {"case": case, "reference_file": f"{references}/{case}.nii.gz", "prediction_file": str(prediction)}
            )
            if holding is not None:
                per_case[-1] |= {"reference_sha256": holding, "prediction_sha256": hashlib.sha256(b"").hexdigest()}
        content = {"metric_per_case": per_case, "evaluation": RECORD | changes}
        (validation / "evaluation.json").write_text(json.dumps(content))
        (validation / "evaluation.csv").touch()

    for model in range(2):
        for fold in range(2):
            record(model, fold)
    return folders, record


def test_tables_measured_alike_need_no_note(recorded, tmp_path):
    folders, record = recorded
    record(0, 1, labels=dict(reversed(RECORD["labels"].items())))
    assert compare_results(folders, tmp_path / "out").notes == ()


@pytest.mark.parametrize(
    ("changes", "metric", "message"),
    [
        ({"nsd_tolerance_mm": 3.0}, "nsd", "the tolerance of NSD .mm. differs: 1.0 "),
        ({"empty_distance": "diagonal"}, "hd95", "the distance to an empty mask differs: inf "),
        ({"empty_distance": "diagonal"}, "assd", "the distance to an empty mask"),
        ({"labels": {"1": "Posterior", "2": "Anterior"}}, "dice", "the labels .* 1 Anterior, 2 Posterior "),
    ],
)
def test_tables_not_measured_alike_are_refused(changes, metric, message, recorded, tmp_path):
    """Also if it is not the last fold; by the folder's name, with the remedy; not where no metric depends on it."""
    folders, record = recorded
    record(1, 0, **changes)
    with pytest.raises(ValueError, match=message) as error:
        compare_results(folders, tmp_path / "out", metrics=["dice", metric])
    for named in (f"({folders[0]}, {folders[1]}/fold_1/validation)", f"({folders[1]}/fold_0/validation)"):
        assert named in str(error.value)
    assert "Evaluate them again with the same options" in str(error.value)
    record(1, 1, **changes)
    with pytest.raises(ValueError, match=message) as error:
        compare_results([*folders], tmp_path / "out", metrics=[metric])
    assert f"({folders[1]})" in str(error.value)
    if "labels" not in changes:
        assert compare_results(folders, tmp_path / "out", metrics=["dice"]).notes == ()


def test_other_versions_references_and_predictions_are_noted(recorded, tmp_path):
    folders, record = recorded
    record(0, 0, versions={"monai": "1.4", "scipy": "1.17"})
    record(0, 1, references="elsewhere")
    case = sorted(folders[1].glob("fold_1/validation/*.nii.gz"))[2]
    table = case.with_name("evaluation.csv")
    os.utime(case, ns=(0, table.stat().st_mtime_ns + 10**9))
    (folders[1] / "fold_0" / "validation" / "evaluation.json").unlink()
    notes = compare_results(folders, tmp_path / "out", metrics=["dice"]).notes
    assert len(notes) == 4
    assert notes[0] == f"{table} is older than {case}: if that was predicted again, evaluate again."
    assert notes[1].startswith(f"{folders[1]}: not recorded how it was measured")
    assert "monai 1.4, scipy 1.17" in notes[2] and f"({folders[0]}/fold_0/validation)" in notes[2]
    first, second = (Path(base).resolve() / "case_01.nii.gz" for base in ("elsewhere", "gt"))
    assert f"case case_01: {first}, {second}, and 5 more cases" in notes[3]
    moved = [folder.rename(folder.with_name(f"moved_{folder.name}")) for folder in folders]
    notes = compare_results(moved, tmp_path / "out", metrics=["dice"]).notes
    assert notes[0].startswith(f"{moved[1]}/fold_1/validation/evaluation.csv is older than {moved[1]}/fold_1/")


def test_copies_need_no_note_and_what_has_changed_has_one(recorded, tmp_path):
    """Where it is recorded what was measured: whatever the files' times and places, their content counts."""
    folders, record = recorded

    def said():
        return compare_results(folders, tmp_path / "out", metrics=["dice"]).notes

    for model in range(2):
        for fold in range(2):
            record(model, fold, references=f"gt{model}", holding="same")
    predictions = sorted(folders[1].glob("fold_1/validation/*.nii.gz"))
    table = predictions[0].with_name("evaluation.csv")
    for prediction in predictions:
        os.utime(prediction, ns=(0, table.stat().st_mtime_ns + 10**9))
    assert said() == ()
    predictions[2].write_bytes(b"predicted again")
    os.utime(predictions[2], ns=(0, table.stat().st_mtime_ns + 10**9))
    assert said() == (f"{table} is older than {predictions[2]}: if that was predicted again, evaluate again.",)
    record(1, 1, references="gt0", holding="corrected since")
    predictions[2].write_bytes(b"")
    file = Path("gt0/case_01.nii.gz").resolve()
    assert said() == (
        f"measured against references that differ, byte for byte: case case_01: {file}, and 5 more cases: if labels "
        "do, evaluate again.",
    )
    record(1, 1, references="gt1")  # by an older version
    (note,) = said()
    assert note.startswith("measured against different reference files (copies, if all is well): case case_01: ")


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_predictions_of_a_folder_that_was_moved_are_found(move, recorded, tmp_path):
    """The report shows them from there, whatever was predicted at the old place since."""
    folder = Path(move(recorded[0][0], tmp_path / "moved"))
    predictions = [prediction for _, prediction in read_evaluated_model(folder).cases.values()]
    assert sorted(predictions) == sorted(folder.glob("fold_*/validation/*.nii.gz")) and predictions


def test_logs_without_an_epoch_are_said(tmp_path):
    """nnU-Net may word its log in another way: then there are no curves, and not silently."""
    folders = [results_folder(tmp_path, name, table_of(seed=seed)) for seed, name in enumerate(("nnUNetTrainer", "B"))]

    def said():
        return [
            note for note in notes([read_evaluated_model(folder) for folder in folders]) if "no epoch was found" in note
        ]

    assert said() == []
    for fold in folders[1].glob("fold_*"):
        (log,) = fold.glob("training_log_*.txt")
        log.write_text(log.read_text().replace("Epoch", "Round").replace("loss", "cost").replace("Pseudo", "Mean"))
    (note,) = said()
    assert f"{folders[1]}/fold_0/training_log" in note and "fold_1" in note and str(folders[0]) not in note
    for log in folders[1].glob("fold_*/*.txt"):
        log.unlink()
    assert said() == []


def test_a_checkpoint_that_is_not_read_is_said(tmp_path):
    folders = [results_folder(tmp_path, name, table_of(seed=seed)) for seed, name in enumerate(("nnUNetTrainer", "B"))]
    damaged = folders[1] / "fold_1" / "checkpoint_final.pth"
    damaged.write_bytes(b"PK")
    found = notes([read_evaluated_model(folder) for folder in folders])
    assert [note for note in found if note.startswith("no learning curves from checkpoints") and str(damaged) in note]


def test_what_evaluate_noted_is_said_again(recorded):
    folders, record = recorded
    from_evaluate = "regions_class_order [1, 2] contradicts the regions"
    for fold in (0, 1):
        record(1, fold, notes=[from_evaluate])
    said = [note for note in notes([read_evaluated_model(folder) for folder in folders]) if from_evaluate in note]
    assert said == [f"{folders[1]}: {from_evaluate}."]


@pytest.mark.parametrize("content", ["[]", '{"metric_per_case": [1]}', '{"metric_per_case": [{"case": "a"}]}', "{,}"])
def test_a_damaged_record_is_one_line_that_names_it(content, tmp_path, capsys):
    folders = [results_folder(tmp_path, name, table_of(seed=seed)) for seed, name in enumerate(("nnUNetTrainer", "B"))]
    file = folders[1] / "fold_1" / "validation" / "evaluation.json"
    file.write_text(content)
    assert main(["compare", *map(str, folders), "-o", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line and "again" in line


@pytest.fixture
def written(tmp_path):
    """A comparison that is already there, made of a few texts, and a call that writes another one over it."""
    output = tmp_path / "out"

    def again(which):
        names = ("figures/dice.png", "comparison.json", "values.csv", "report.html")
        write_files({name: f"{which} {name}".encode() for name in names}, output)

    again("old")
    return output, again


def texts(output):
    return {str(file.relative_to(output)): file.read_text() for file in output.rglob("*") if file.is_file()}


@pytest.mark.skipif(os.name == "nt", reason="forks, and kills")
@pytest.mark.parametrize("fatal", range(4))
def test_killed_while_it_writes_over_another_comparison(fatal, written):
    """An old report never stands beside new tables, whichever file was the last; the next call makes all whole."""
    output, again = written
    replace = Path.replace

    def die_in_between():
        count = iter(range(100))

        def die(self, target):
            if next(count) == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)

        with patch.object(Path, "replace", die):
            again("new")

    process = multiprocessing.get_context("fork").Process(target=die_in_between)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (output / "report.html").exists()
    assert len([text for text in texts(output).values() if text.startswith("new ")]) == fatal + 1  # one is temporary
    again("newer")
    assert texts(output) == {name: f"newer {name}" for name in texts(output)} and len(texts(output)) == 4


def test_figures_of_another_comparison_go(tmp_path):
    """Of metrics and cases that are no longer there; what somebody else has put there stays."""
    mine = ("figures/paired_dice.pdf", "figures/boxes_dice.png")
    others = ("figures/notes.png", "figures/boxes_dice_final.png", "figures/paired_dice.svg")
    gone = ("figures/paired_lesion_f1.png", "figures/case_median.pdf", "figures/curves.png", "figures/cost.pdf")
    (tmp_path / "figures").mkdir()
    for name in (*mine, *others, *gone):
        (tmp_path / name).write_text("old")
    write_files(dict.fromkeys(mine, b"new"), tmp_path)
    assert texts(tmp_path) == dict.fromkeys(mine, "new") | dict.fromkeys(others, "old")


def test_a_full_disk_is_named_with_its_file(written, monkeypatch):
    output, again = written

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{output}/figures/dice.png'"):
        again("new")
    assert not (output / "report.html").exists() and not list(output.rglob(".partial*"))


def test_a_report_that_cannot_be_made_leaves_the_old_one(written, tmp_path, monkeypatch):
    output, _ = written
    old = texts(output)
    folders = [results_folder(tmp_path, name, table_of(seed=seed)) for seed, name in enumerate("AB")]
    monkeypatch.setattr(compare_module, "make_files", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compare_results(folders, output)
    assert texts(output) == old


def test_values_are_no_formulas_for_a_spreadsheet(tmp_path):
    tables = []
    for name in ("=A", "@B"):
        table = table_of(labels=("+label", "other"), seed=len(tables), cases=3).replace({"case_00": "-case"})
        file = tmp_path / f"{name}.csv"
        file.write_text(format_metrics(table))
        tables.append((name, read_metrics(file)))
        assert tables[-1][1]["label"].unique().tolist() == ["+label", "other"]
    text = values_csv(compare_tables(tables, ["dice"]))
    cells = {cell for row in csv.reader(text.splitlines()) for cell in row}
    assert {"'=A", "'@B", "'+label", "'-case"} <= cells
    assert not any(cell.startswith(("=", "@", "+", "-")) for cell in cells)


def test_no_difference_is_said_to_be_none_and_not_equality():
    comparison = compare_tables([("A", table_of(0, 1)), ("B", table_of(0, 2))], ["dice"])
    text = findings(comparison)
    assert "No significant difference between the two models was found (adjusted p = " in text[0]
    assert "leave room for mean differences of up to 0.0" in text[0]
    assert "is not shown to be absent" in text[1]
    assert "better" not in text[0]


def test_a_difference_is_said_with_its_p_value():
    tables = [("A", table_of(0, 1)), ("B", table_of(0.05, 2)), ("C", table_of(0.05, 3))]
    text = findings(compare_tables(tables, ["hd95"]))[0]
    assert "lowest mean" in text
    assert "significantly better than A (adjusted p = 0.00" in text
    assert re.search("No significant difference between [BC] and", text) and "2 of 3 pairs" in text


def test_folders_of_images_and_references_are_handed_on(monkeypatch, tmp_path):
    given = {}

    def compare(results, output, names, metrics, seed, images, references):
        given.update(images=images, references=references)
        raise ValueError("enough")

    monkeypatch.setattr(compare_module, "compare_results", compare)
    assert main(["compare", "a", "b", "-o", str(tmp_path), "--images", "of_cases", "--references", "of_labels"]) == 1
    assert given == {"images": Path("of_cases"), "references": Path("of_labels")}


def test_the_best_mean_is_bold():
    """The smallest distance, the largest of the others; of two that are the same, both."""
    metrics = ("dice", "hd95", "assd", "nsd")
    tables = {name: table_of(gain, cases=5) for name, gain in (("low", 0), ("high", 0.1), ("again", 0.1))}
    comparison = compare_tables([*tables.items()], metrics)
    table = overview(comparison)
    assert table.rows[1][0] == "high"
    for number, metric in enumerate(metrics):
        column = 1 + 2 * number
        means = [result.mean for result in comparison.of(metric)[0].results]
        assert (means[1] < means[0]) == (metric in ("hd95", "assd"))
        assert {row for row, place in table.bold if place == column} == {1, 2}
        better = "lower" if metric in ("hd95", "assd") else "higher"
        assert table.head[column].endswith(f", {better} is better")
    assert not any(place % 2 == 0 for _, place in table.bold)


def test_numbers_have_the_digits_of_their_unit():
    assert METRICS["hd95"].number(1.2345) == "1.23" and METRICS["hd95"].heading == "HD95 [mm]"
    assert METRICS["dice"].number(0.123456) == "0.1235" and METRICS["dice"].heading == "Dice"
    assert METRICS["nsd"].number(float("nan")) == "unknown"


def test_extreme_cases():
    assert extremes({"a": 0.9, "b": 0.1, "c": 0.5}) == {"worst": "b", "median": "c", "best": "a"}
    assert extremes({"a": 0.9, "b": 0.1}) == {"worst": "b", "best": "a"}
    assert extremes({"a": 0.9}) == {"worst": "a"}


@pytest.mark.parametrize(
    "content",
    [
        {"evaluation": {"versions": None}},
        {"evaluation": 3},
        {"metric_per_case": [{"case": "a", "reference_file": "a\0b", "prediction_file": "c"}]},
        {"metric_per_case": [{"case": "a", "reference_file": 3, "prediction_file": "c"}]},
        {"metric_per_case": [{"case": ["a"], "reference_file": "b", "prediction_file": "c"}]},
        {"metric_per_case": 3},
    ],
    ids=range(6),
)
def test_what_evaluate_does_not_write_is_named(tmp_path, content):
    (tmp_path / "evaluation.csv").touch()
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"evaluation.json is not what evaluate writes .*; evaluate again"):
        read_evaluated_model(tmp_path)
