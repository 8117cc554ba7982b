"""The report of a made-up comparison with hostile names: complete, self-contained, escaped."""

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import SimpleITK
from drawings import report as report_drawing
from made_up_models import results_folder, table_of
from matplotlib.figure import Figure

from nnunetv2_mamba.cli import main
from nnunetv2_mamba.evaluation import statistics
from nnunetv2_mamba.evaluation.compare_tables import compare_tables
from nnunetv2_mamba.evaluation.evaluated_model import read_evaluated_model
from nnunetv2_mamba.evaluation.report.case_images import section_of_cases
from nnunetv2_mamba.evaluation.report.figures import cost_versus_score
from nnunetv2_mamba.evaluation.report.html import Illustration, data_uri
from nnunetv2_mamba.evaluation.report.report_files import _FIGURE
from nnunetv2_mamba.evaluation.tables import read_metrics

DOCS = Path(__file__).parents[2] / "docs"
LABELS = ('<script>alert("label")</script>', r"50%_of $x^2$ & \input{x}|`a`")
CASES = ("case_worst", "case_median", "case_best")
NAMES = ("<script>alert('trainer')</script>", "nnUNetTrainer_SegMamba")
COST = {
    "parameters": 5_000_000,
    "flops": None,
    "seconds_per_epoch": 2.5,
    "energy_joules": 5_400_000,
    "peak_memory": {"allocated_bytes": None, "process_bytes": 2**31},
    "device": "a machine <b>",
    "versions": {"torch": "2.9"},
    "epochs": 3,
}


def write_images(base, folders, cases):
    """Images, references and predictions, and the ``evaluation.json`` that says where they are."""
    shape = (8, 10, 12)
    for case in cases:
        voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        mask = np.zeros(shape, np.uint8)
        mask[2:6, 3:7, 3:6], mask[2:6, 3:7, 6:9] = 1, 2
        files = {base / "imagesTr" / f"{case}_0000.nii.gz": voxels, base / "labelsTr" / f"{case}.nii.gz": mask}
        files |= {folder / f"fold_{i}" / "validation" / f"{case}.nii.gz": mask for folder in folders for i in range(2)}
        for file, array in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(file))
    for folder in folders:
        for fold in range(2):
            validation = folder / f"fold_{fold}" / "validation"
            per_case = [
                {
                    "case": case,
                    "reference_file": str(base / "labelsTr" / f"{case}.nii.gz"),
                    "prediction_file": str(validation / f"{case}.nii.gz"),
                }
                for case in cases[fold::2]
            ]
            content = {"metric_per_case": per_case, "evaluation": {"nsd_tolerance_mm": 1.0, "versions": {"monai": "1"}}}
            (validation / "evaluation.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Two models, six cases, two folds; costs of the first only."""
    base = tmp_path_factory.mktemp("report")
    tables = [table_of(gain, seed, cases=6, labels=LABELS) for seed, gain in enumerate((0, 0.03))]
    tables[0].loc[(tables[0].case == "case_00") & (tables[0].metric == "hd95"), "value"] = np.inf
    folders = [
        results_folder(base / "res", f"nnUNetTrainer{i}", table, labels=LABELS, cost=None if i else COST)
        for i, table in enumerate(tables)
    ]
    write_images(base / "raw" / "Dataset998_MadeUp", folders, [f"case_{i:02d}" for i in range(6)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(base / "raw"))
        patch.setattr(statistics, "RESAMPLES", 199)
        with matplotlib.rc_context({"font.size": 30, "text.usetex": True}):  # a user's settings that must not matter
            code = main(["compare", *map(str, folders), "--names", *NAMES, "--metric", "hd95", "-o", str(base / "out")])
    assert code == 0
    return base / "out"


@pytest.fixture(scope="module")
def html(output):
    return (output / "report.html").read_text(encoding="utf-8")


def test_everything_is_there(output):
    assert {path.name for path in output.iterdir()} == {
        "report.html", "comparison.json", "values.csv", "table.md", "table.tex", "methods.txt", "figures",
    }  # fmt: skip
    figures = ("paired_hd95", "boxes_hd95", "significance_hd95", "cost", "curves", *CASES)
    assert {path.name for path in (output / "figures").iterdir()} == {
        f"{name}.{ending}" for name in figures for ending in ("png", "pdf")
    }
    assert all(_FIGURE.fullmatch(path.name) for path in (output / "figures").iterdir())
    content = json.loads((output / "comparison.json").read_text())
    assert content["costs"][NAMES[0]] == {
        "parameters": 5, "seconds_per_epoch": 2.5, "peak_memory.process_bytes": 2, "energy_joules": 1.5,
    }  # fmt: skip
    assert content["structures"][0]["results"][0]["failures"] == 1
    values = pd.read_csv(output / "values.csv")
    assert len(values) == 2 * 3 * 6 and set(values["result"]) == set(NAMES)


def test_nothing_is_fetched_and_no_name_becomes_a_tag(html):
    assert len(html) < 10_000_000
    assert not re.search(r"https?://|<script|<b>|javascript:|@import|url\(", html)
    targets = re.findall(r'(?:src|href)="([^"]{5})', html)
    assert len(targets) >= 8 and all(target.startswith(("data:", "#")) for target in targets)
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html
    for name in (NAMES[0], LABELS[0]):
        assert name.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#39;").replace('"', "&#34;") in html


def test_the_documentation_draws_the_sections_that_there_are(html):
    assert sections(html) == drawn_sections("HD95")


def test_the_documentations_example_is_a_report_of_today():
    example = (DOCS / "reports" / "small_networks_report.html").read_text(encoding="utf-8")
    assert sections(example) == drawn_sections("Dice", "HD95")
    assert not re.search(r"/(?:home|root|tmp|Users)/", re.sub(r'"data:[^"]*"', "", example))


def sections(html):
    assert 'class="findings"' in html
    return [title.split(" [")[0] for title in re.findall(r'<h2 id="s\d+">(.*?)</h2>', html)]


def drawn_sections(*metrics):
    """Those that the tour of a report draws, if these metrics are compared."""
    beginning, *drawn = report_drawing.SECTIONS
    assert beginning == "Findings and notes" and {*metrics} <= {*report_drawing.METRIC.split(", ")}
    place = drawn.index(report_drawing.METRIC)
    return [*drawn[:place], *metrics, *drawn[place + 1 :]]


def test_every_picture_is_described_and_whole(html):
    pictures = re.findall(r'<img src="data:image/([a-z+]+);base64,([^"]+)" alt="([^"]+)">', html)
    assert len(pictures) == html.count("<img ") == 8
    assert len(re.findall(r'<div class="scroll" [^>]*>\n<img ', html)) == 8  # wider than a phone, it scrolls alone
    for kind, data, description in pictures:
        assert len(description) > 40
        content = base64.b64decode(data)
        if kind == "png":
            assert content.startswith(b"\x89PNG")
        else:
            text = content.decode()
            assert "<script" not in text and not re.search(r'href="(?!#|data:)', text)


def test_a_picture_of_very_many_lines_is_made_of_pixels():
    figure = Figure(figsize=(10, 10))
    figure.subplots().plot(np.random.default_rng(0).normal(size=(60, 400)), linewidth=0.4)
    uri = data_uri(Illustration("many", figure, "", ""))
    assert uri.startswith("data:image/webp;base64,") and len(uri) < 1_500_000


def test_latex_cannot_be_broken_by_names(output):
    text = (output / "table.tex").read_text()
    assert r"\textless{}script\textgreater{}alert('trainer')" in text
    assert r"50\%\_of \$x\textasciicircum{}2\$ \& \textbackslash{}input\{x\}\textbar{}`a`" in text
    plain = re.sub(r"\\[{}%$&_#]", "", text)
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"(?<!\\)[$#_]", text)


def test_markdown_has_columns_and_no_tags(output):
    text = (output / "table.md").read_text()
    assert "<script" not in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 6  # noise floor, overview, pairs over folds, over cases, costs, structures
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_costs_are_in_the_units_that_the_table_says(output):
    """5.4 MJ are 1.5 kWh, 2 ** 31 bytes are 2 GiB."""
    block = next(block for block in (output / "table.md").read_text().split("\n\n") if "kWh" in block)
    head, _, first, second, *_ = ([cell.strip() for cell in line.split(" | ")] for line in block.splitlines())
    found = dict(zip(head, first, strict=True))
    assert {key: value.strip(" |") for key, value in found.items() if "model" not in key} == {
        r"parameters \[million\]": "5",
        r"time per epoch \[s\]": "2.5",
        r"peak memory of the process \[GiB\]": "2",
        r"energy of a training \[kWh\] |": "1.5",
    }
    assert [cell.strip(" |") for cell in second[1:]] == ["unknown"] * 4


def test_the_worst_case_has_the_largest_distance(output, html):
    """By the mean over the models, of the mean over structures; the picture's caption says which."""
    values = pd.read_csv(output / "values.csv").query("metric == 'hd95' and structure == 'mean over structures'")
    ordered = values.groupby("case")["value"].mean().sort_values()
    assert ordered.iloc[-1] > 1.5 * ordered.iloc[0]
    found = {kind: re.search(rf"{kind} case: (case_\d\d)\.", html)[1] for kind in ("Worst", "Median", "Best")}
    assert (found["Worst"], found["Best"]) == (ordered.index[-1], ordered.index[0])
    assert found["Median"] in ordered.index[2:4]


def test_methods_say_what_is_known_and_what_is_not(output, html):
    text = (output / "methods.txt").read_text()
    assert "patch 40 x 56 x 40, batch size 9, spacing 1 x 1 x 1 mm; folds 0, 1; seeds 7; epochs 3; on a machine" in text
    assert "seeds not recorded" in text  # of the second
    for word in ("scipy", "Holm", "Wilcoxon", "bias-corrected"):
        assert word in text
    assert "1 failed" in html and "twice the largest finite one" in html


def test_a_seed_without_the_case_is_passed_over(tmp_path):
    """Of the first model the first repetition has fold 1 only, and the case shown is in fold 0."""
    folders = [results_folder(tmp_path / str(i), "nnUNetTrainer", table_of(0, i, cases=2)) for i in range(3)]
    write_images(tmp_path / "raw", folders, ["case_00", "case_01"])
    shutil.rmtree(folders[0] / "fold_0")
    names = ("A", "A", "B")
    comparison = compare_tables([(name, read_metrics(own)) for name, own in zip(names, folders, strict=True)], ["dice"])
    models = [read_evaluated_model(folder) for folder in folders]
    section = section_of_cases(comparison, {"A": models[:2], "B": models[2:]}, tmp_path / "raw" / "imagesTr", None)
    assert [illustration.name for illustration in section.illustrations] == ["case_worst", "case_best"]


def test_images_and_references_of_other_folders(tmp_path):
    folders = [results_folder(tmp_path / str(i), "nnUNetTrainer", table_of(0, i, cases=2)) for i in range(2)]
    write_images(tmp_path / "raw", folders, ["case_00", "case_01"])
    images, references = ((tmp_path / "raw" / name).rename(tmp_path / name) for name in ("imagesTr", "labelsTr"))
    comparison = compare_tables([(str(i), read_metrics(own)) for i, own in enumerate(folders)], ["dice"])
    models = {str(i): [read_evaluated_model(folder)] for i, folder in enumerate(folders)}
    assert len(section_of_cases(comparison, models, images, references).illustrations) == 2
    (images / "case_00_0000.nii.gz").unlink()
    with pytest.raises(ValueError, match="case_00"):
        section_of_cases(comparison, models, images, references)
    assert not section_of_cases(comparison, models, None, None).illustrations  # said, where nobody named a folder


@pytest.mark.parametrize("name", [5, "../Dataset998_MadeUp", "{base}/raw/Dataset998_MadeUp"])
def test_a_data_sets_name_of_a_strangers_plans_leads_nowhere(tmp_path, monkeypatch, name):
    folders = [results_folder(tmp_path / str(i), "nnUNetTrainer", table_of(0, i, cases=2)) for i in range(2)]
    write_images(tmp_path / "raw" / "Dataset998_MadeUp", folders, ["case_00", "case_01"])
    (tmp_path / "raw/other").mkdir()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw/other"))
    name = name.format(base=tmp_path) if isinstance(name, str) else name
    comparison = compare_tables(
        [(title, read_metrics(own)) for title, own in zip("AB", folders, strict=True)], ["dice"]
    )
    models = [replace(read_evaluated_model(folder), dataset=None, plans={"dataset_name": name}) for folder in folders]
    section = section_of_cases(comparison, {"A": models[:1], "B": models[1:]}, None, None)
    assert "nnUNet_raw has no image of case_0" in section.paragraphs[0]


def test_a_mean_of_equal_values_is_off_its_interval_by_rounding_alone():
    """The mean of three times 0.1 is above 0.1, and bars of a negative length are refused."""
    values = pd.DataFrame({"case": ["a", "b", "c"], "label": "1", "metric": "dice", "value": 0.1})
    (item, *_) = compare_tables([("A", values), ("B", values)], ["dice"]).overall
    figure, _ = cost_versus_score(item, {"A": {"parameters": 1.0}, "B": {}})
    assert isinstance(figure, Figure)


def browse(page, folder):
    """Open a page in headless Chromium: its picture, its console, and who asked for something on the network."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    log = folder / "net.json"
    result = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--disable-component-update", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr", f"--log-net-log={log}", f"--user-data-dir={folder / 'profile'}",
            "--window-size=1400,1000", f"--screenshot={folder / 'page.png'}", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    # What the browser wants for itself (updates, the time) has no origin.
    initiators = set(re.findall(r'"initiator":"([^"]+)"', log.read_text(errors="replace"))) - {"not an origin"}
    picture = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "page.png")))[..., :3]
    return picture, console, initiators


def test_a_browser_shows_it_without_errors_or_requests(output, tmp_path):
    picture, console, initiators = browse(output / "report.html", tmp_path)
    assert picture.shape[:2] == (1000, 1400) and picture.std() > 10
    assert not console and not initiators
    page = tmp_path / "page.html"  # the same test sees what a page does wrong
    page.write_text('<!DOCTYPE html><img src="http://example.invalid/x.png"><script>console.error("no")</script>')
    _, console, initiators = browse(page, tmp_path)
    assert console and initiators
