"""Every section runs on the CPU with tiny sizes, by the code that a GPU will run, and can fail."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from gpu_sections import (
    ceilings,
    compilation,
    compiled_training,
    correctness,
    device_tests,
    environment,
    kernel_profile,
    operator_cases,
    places,
    rival,
    speed,
    training,
    whole_scan,
)
from gpu_sections.context import NEEDS_CUDA, Context
from gpu_sections.sections import BACKEND, NETWORKS, SSD_BACKEND, WITHOUT_MAMBA, all_sections
from networks import ONE_OF_EACH, OURS
from registered_networks import OF_MONAI

from nnunetv2_mamba.architectures.registry import NETWORKS as REGISTERED
from nnunetv2_mamba.ops import selective_scan


def rows_of(run, job: str = "all") -> list[dict]:
    rows = []
    run(Context("cpu", rows.append), job)
    json.dumps(rows, allow_nan=False)  # as it is written
    return rows


def findings(rows: list[dict]) -> list[dict]:
    return [row for row in rows if NEEDS_CUDA not in row]


def left_out(rows: list[dict]) -> list[str]:
    return [row[NEEDS_CUDA] for row in rows if NEEDS_CUDA in row]


def test_every_class_of_network_is_measured():
    assert set(NETWORKS) == set(ONE_OF_EACH)
    assert set(WITHOUT_MAMBA) <= set(OURS)
    ours = {network.network_class for network in ONE_OF_EACH.values()} - {
        ONE_OF_EACH[n].network_class for n in NETWORKS[-2:]
    }
    assert ours == {  # MONAI is not in the archive
        network.network_class for name, network in REGISTERED.items() if name not in OF_MONAI
    }


def test_optimizers_are_those_of_the_recipes():
    for network in ONE_OF_EACH.values():
        registered = REGISTERED.get(network.network_class.__name__)
        assert network.optimizer == (registered.recipe.get("optimizer", "sgd") if registered else "sgd")


class TestEnvironment:
    def test_all_is_there(self):
        rows = rows_of(environment.run)
        assert len(findings(rows)) == 5
        assert all(row["passed"] for row in findings(rows))
        assert len(left_out(rows)) == 1

    def test_no_compiler(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CC", raising=False)
        with pytest.raises(environment.MissingError, match="no C compiler; apt install gcc"):
            environment.compiler()

    def test_no_headers(self, monkeypatch, tmp_path):
        monkeypatch.setattr(environment.sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
        with pytest.raises(environment.MissingError, match=r"Python.h.*apt install python3\.\d+-dev"):
            environment.compiler()

    def test_headers_of_ubuntus_own_python(self, monkeypatch, tmp_path):
        """Its default folder, below /usr/local, has none."""
        own, get_paths = environment.sysconfig.get_default_scheme(), environment.sysconfig.get_paths

        def ubuntus(scheme="posix_local"):
            return {"include": str(tmp_path)} if scheme == "posix_local" else get_paths(own)

        monkeypatch.setattr(environment.sysconfig, "get_default_scheme", lambda: "posix_local")
        monkeypatch.setattr(environment.sysconfig, "get_paths", ubuntus)
        assert get_paths(own)["include"] in environment.compiler()

    def test_a_compiler_that_cannot_be_run(self, monkeypatch, tmp_path):
        monkeypatch.setenv("CC", str(tmp_path / "nothing"))
        with pytest.raises(environment.MissingError, match="cannot be run"):
            environment.compiler()

    def test_no_gpu(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(environment.MissingError, match="sees no CUDA device; run on a machine"):
            environment.gpu()

    def test_what_is_missing_is_a_row_that_did_not_pass(self, monkeypatch):
        monkeypatch.setattr(environment, "compiler", partial(environment.imported, "no_such_module", "the remedy"))
        (row,) = [row for row in findings(rows_of(environment.run)) if not row["passed"]]
        assert "the remedy" in row["found"]


class TestCompilation:
    def test_every_piece_is_done_once(self, monkeypatch):
        monkeypatch.setattr(compilation, "pieces", lambda context: {str(i): lambda: None for i in range(7)})
        jobs = next(section for section in all_sections(3) if section.name == "compilation").jobs
        assert jobs[:2] == (BACKEND, SSD_BACKEND)
        done = [row["compiled"] for job in jobs[2:] for row in findings(rows_of(compilation.run, job))]
        assert sorted(done) == [str(i) for i in range(7)]

    def test_pieces_run(self):
        names = list(compilation.pieces(Context("cpu", print)))
        wanted = ["a step of U-Mamba2", "scan, ragged, bf16", "Mamba-2, five states, fp16", "convolution, fp32"]
        for name in wanted:
            job = f"{names.index(name) + 1} of {len(names)}"
            rows = rows_of(compilation.run, job)
            assert [row.get("compiled") for row in findings(rows)] == [name]
            assert "seconds" in findings(rows)[0]
            assert left_out(rows)

    def test_a_kernel_that_does_not_compile_is_said_and_the_rest_goes_on(self, monkeypatch):
        def fails():
            raise RuntimeError("no registers left")

        monkeypatch.setattr(compilation, "pieces", lambda context: {"a": fails, "b": lambda: None})
        first, second = findings(rows_of(compilation.run, "1 of 1"))
        assert first == {"compiled": "a", "failed": "RuntimeError: no registers left"}
        assert "seconds" in second

    def test_backends(self):
        (row,) = rows_of(compilation.run, BACKEND)
        assert row["passed"]
        assert left_out(rows_of(compilation.run, SSD_BACKEND)) == ["the check of Mamba-2's Triton kernels"]

    def test_plain_torch_on_a_gpu_is_a_failure(self, monkeypatch):
        monkeypatch.setattr(compilation.backend_selection, "choose_backend", lambda device: ("torch", "the reason"))
        rows = []
        compilation.emit_backend(Context("cuda", rows.append))
        assert rows == [{"backend of": "the scan", "found": "torch: the reason", "passed": False}]


class TestCorrectness:
    @pytest.mark.parametrize("job", ["convolution", "repeatability"])
    def test_kernels_are_right(self, job):
        rows = rows_of(correctness.run, job)
        assert all(row["passed"] for row in findings(rows))
        assert {row["kernel"].split(", ")[1] for row in findings(rows)} == {"cpu", "torch"}
        assert left_out(rows) == ["the Triton kernels' results"]

    @pytest.mark.parametrize(
        ("job", "table"), [("scan, bf16", "ODD_SCANS"), ("mamba2", "ODD_SSDS")], ids=["scan", "mamba2"]
    )
    def test_scans_are_right(self, monkeypatch, job, table):
        monkeypatch.setattr(correctness, table, {"ragged": getattr(operator_cases, table)["ragged"]})
        monkeypatch.setattr(correctness, table.removeprefix("ODD_"), {})
        rows = findings(rows_of(correctness.run, job))
        assert len(rows) == (2 if job == "scan, bf16" else 6)
        assert all(row["passed"] for row in rows)

    @pytest.mark.parametrize(("factor", "found"), [(1.001, None), (float("nan"), "not finite")])
    def test_a_wrong_kernel_is_found(self, monkeypatch, factor, found):
        right = operator_cases.causal_conv1d

        def wrong(*arguments, backend, **others):
            out = right(*arguments, backend=backend, **others)
            return out * factor if backend == "cpu" else out

        monkeypatch.setattr(operator_cases, "causal_conv1d", wrong)
        monkeypatch.setattr(correctness, "DTYPES", {"fp32": torch.float32})
        rows = findings(rows_of(correctness.run, "convolution"))
        assert [row["passed"] for row in rows] == [not row["kernel"].endswith("cpu") for row in rows]
        assert found is None or rows[0]["forward"] == found

    def test_a_kernel_that_is_not_repeatable_is_found(self, monkeypatch):
        exact = correctness.with_gradients

        def noisy(*arguments):
            return {name: t + torch.rand_like(t) * 1e-3 for name, t in exact(*arguments).items()}

        monkeypatch.setattr(correctness, "with_gradients", noisy)
        assert not any(row["passed"] for row in findings(rows_of(correctness.run, "repeatability")))


def test_speed(monkeypatch):
    monkeypatch.setattr(speed, "SSDS", {"one": operator_cases.SSDS["SegMamba stage 1"]})
    rows = rows_of(speed.run)
    operators = [row["operator"] for row in findings(rows)]
    assert operators[:2] == ["copy", "exp2"]
    assert set(operators[2:]) == {"scan, cpu", "convolution, cpu", "Mamba-2's scan, cpu", "Mamba-2's scan, torch"}
    for row in findings(rows)[2:]:
        floors = [row[key] for key in row if key.startswith("forward") and key.endswith("floor ms")]
        assert row["forward / floor"] == pytest.approx(row["forward ms"] / max(floors))
    assert "peak memory" in left_out(rows)


def test_the_kernel_of_exponentials_compiles_for_a_gpu():
    pytest.importorskip("triton.backends.nvidia", reason="this triton is not for NVIDIA GPUs")
    from gpu_sections.exponentials import exp_kernel
    from offline_gpu import compiling_for

    with compiling_for(90):
        compiled = exp_kernel.warmup(torch.empty(1, device="meta"), 1024, BLOCK=1024, num_warps=4, grid=(1,))
    assert "ex2.approx" in compiled.asm["ptx"]


def test_floors_count_two_exponentials_there_and_three_back():
    context = Context("cpu", lambda row: None)
    sizes = replace(operator_cases.SCANS["SegMamba stage 1"], grid=(2, 2, 2), channels=4)
    tensors = operator_cases.scan_inputs(context, sizes, torch.float16, 2)
    device = ceilings.Ceilings(bytes_per_ms=1e6, exponentials_per_ms=1.0)
    floors = ceilings.scan_floors(device, tensors)
    exponentials = 2 * 3 * 8 * 4 * 16  # batch, directions, tokens, channels, states
    assert floors["forward exp floor ms"] == 2 * exponentials
    assert floors["backward exp floor ms"] == 3 * exponentials
    assert floors["forward byte floor ms"] < floors["backward byte floor ms"]


class TestRival:
    def test_it_needs_cuda(self):
        assert rows_of(rival.run) == [{NEEDS_CUDA: "mamba_ssm's kernel"}]

    def test_both_ways_compute_the_same(self):
        """Our `selective_scan` has the arguments of mamba_ssm's and stands in for it."""
        context = Context("cpu", lambda row: None)
        sizes = replace(operator_cases.SCANS["SegMamba stage 1"], grid=(3, 4, 2), channels=6)
        tensors = operator_cases.scan_inputs(context, sizes, torch.float64, 2)
        shared = tensors["u"].detach()[:, :1].expand_as(tensors["u"]).clone().requires_grad_()
        tensors = {**tensors, "u": shared}
        # Theirs has each direction's steps, B and C in its own order; ours has them by token.
        by_token = dict(tensors)
        for name in ("delta", "B", "C"):
            by_token[name] = torch.empty_like(tensors[name])
            for k, path in enumerate(tensors["paths"].long()):
                by_token[name].data[:, k, path] = tensors[name].data[:, k]
        comparison = rival.comparison_of(sizes.grid, tensors, selective_scan, "torch")
        torch.testing.assert_close(
            comparison.theirs().transpose(1, 2), operator_cases.scan(by_token, "torch"), rtol=1e-6, atol=1e-8
        )
        assert set(rival.figures_of(context, comparison)) >= {"speed-up", "mamba_ssm forward ms"}


class TestTraining:
    def test_a_step_and_a_prediction(self):
        rows = rows_of(training.run, "MedSegMamba")
        assert [(row["what"], row["batch"]) for row in findings(rows)] == [("training", 2), ("prediction", 1)]
        assert all(row["ms"] > 0 for row in findings(rows))
        assert "peak memory" in left_out(rows)
        assert "autocast to fp16" in left_out(rows)

    def test_the_step_trains(self):
        context = Context("cpu", lambda row: None)
        step = training.training_step(context, ONE_OF_EACH["PlainConvUNet"].made_small())
        losses = [step() for _ in range(12)]
        assert losses[-1] < losses[0]

    def test_estimates_are_read(self, monkeypatch, tmp_path):
        monkeypatch.setattr(places, "ESTIMATES", tmp_path / "estimates.json")
        assert training.estimate_mib("SegMamba", "training") is None
        content = {"SegMamba": {"training": 3 * 2**20, "prediction": 2**20}}
        (tmp_path / "estimates.json").write_text(json.dumps(content))
        assert training.estimate_mib("SegMamba", "training, compiled") == 3
        assert training.estimate_mib("SegMamba", "prediction") == 1
        assert training.estimate_mib("another", "training") is None


def test_compiled_training():
    rows = rows_of(compiled_training.run, "PlainConvUNet")
    (row,) = findings(rows)
    assert (row["what"], row["ms"] > 0, row["first step s"] > 0) == ("training, compiled", True, True)
    assert "torch.compile's compiler" in left_out(rows)


class TestWholeScan:
    def test_it_runs(self):
        quick, thorough = findings(rows_of(whole_scan.run))
        assert thorough["windows"] > quick["windows"]

    @pytest.mark.parametrize("step", [2, 3, 4])
    def test_windows_cover_the_image_and_are_added_up(self, step):
        image = torch.randn(1, 1, 7, 4, 9)
        labels = whole_scan.segment(lambda window: torch.cat([-window, window], 1), image, 4, step)
        assert torch.equal(labels, (image[:, 0] > 0).long())

    def test_windows_of_the_paper(self):
        assert whole_scan.starts(256, 96, 32) == [0, 32, 64, 96, 128, 160]
        assert len(whole_scan.starts(256, 96, 16)) == 11
        assert whole_scan.starts(96, 96, 16) == [0]
        assert whole_scan.starts(100, 96, 16) == [0, 4]


class TestKernelProfile:
    def test_it_runs(self):
        rows = rows_of(kernel_profile.run)
        *kernels, everything = findings(rows)
        assert any("directional_scan" in row["kernel"] for row in kernels)
        assert sum(row["share"] for row in kernels) == pytest.approx(1)
        assert everything["kernel"] == "all"

    def test_the_rest_is_summed_up(self):
        times = {f"kernel {i}": (1, 10.0 + i) for i in range(kernel_profile.ROWS + 3)}
        total = sum(microseconds for _, microseconds in times.values())
        rows = kernel_profile.largest(times, total)
        assert rows[0]["kernel"] == f"kernel {kernel_profile.ROWS + 2}"
        assert rows[-2] == {"kernel": "the rest", "calls": 3, "ms": 33 / 1e3, "share": 33 / total}


class TestDeviceTests:
    @pytest.fixture
    def suite_of(self, tmp_path, monkeypatch):
        def make(text: str) -> list[dict]:
            folder = tmp_path / "tests" / "gpu"
            folder.mkdir(parents=True)
            (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
            (folder / "test_made_up_for_the_gpu_suite.py").write_text(text)
            monkeypatch.setattr(places, "ROOT", tmp_path)
            return rows_of(device_tests.run)

        return make

    def test_outcomes(self, suite_of):
        rows = suite_of(
            "import pytest\ndef test_a(): pass\ndef test_b(): assert 1 == 2\ndef test_c(): pytest.skip('no GPU')\n"
        )
        good, bad = findings(rows)
        assert (good["passed"], bad["passed"]) == (True, False)
        assert "assert 1 == 2" in bad["why"]
        assert left_out(rows) == ["1 tests of tests/gpu, which were collected and skipped"]

    def test_what_cannot_be_imported_did_not_pass(self, suite_of):
        with pytest.raises(RuntimeError, match="INTERRUPTED"):
            suite_of("import no_such_module\n")

    def test_the_archive_leaves_out_what_needs_nnunet(self, monkeypatch, suite_of):
        monkeypatch.setattr(device_tests, "has_nnunet", lambda: False)
        monkeypatch.setattr(device_tests, "NEED_NNUNET", ("test_made_up_for_the_gpu_suite.py", "test_b.py"))
        with pytest.raises(RuntimeError, match="NO_TESTS_COLLECTED"):
            suite_of("import no_such_module\n")
