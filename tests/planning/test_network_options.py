"""Options of a network go into its plans, and from there into training and prediction."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import run_training
from tiny_dataset import DATASET_ID, NAME

from nnunetv2_mamba import cli
from nnunetv2_mamba.architectures.registry import NETWORKS
from nnunetv2_mamba.planning import command
from nnunetv2_mamba.planning.network_options import name_of_options, of_stages, parse_options
from nnunetv2_mamba.planning.planners import PLANNERS

PLANS = "nnUNetSegMambaGatePlans"
SCAN = {"scan": "hilbert+reverse", "fusion": "learned"}


@pytest.fixture
def planned(tiny_dataset, monkeypatch) -> Path:
    monkeypatch.setattr(command, "preprocess_dataset", lambda *_: None)
    options = [word for pair in ("gate=multiply", "fue=true", "n_tom_layers_per_stage=[1,2,1,9]", "mixer=none",
                                 "features_per_stage=[8,8,8]")
               for word in ("--option", pair)]  # fmt: skip
    arguments = ["-d", str(DATASET_ID), "--network", "SegMamba", "--gpu-memory", "2", "-np", "1"]
    assert (
        cli.main(["plan", *arguments, "-c", "3d_fullres", "--no_integrity_check", *options, "--plans-name", PLANS]) == 0
    )
    yield tiny_dataset.preprocessed / NAME / f"{PLANS}.json"
    (tiny_dataset.preprocessed / NAME / f"{PLANS}.json").unlink()


def test_training_and_prediction_have_the_options(planned, tiny_dataset, monkeypatch):
    plans = tiny_dataset.plans(PLANS)
    architecture = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert (architecture["gate"], architecture["fue"], architecture["mixer"]) == ("multiply", True, "none")
    assert (architecture["n_stages"], architecture["features_per_stage"]) == (3, [8, 8, 8])
    assert architecture["n_tom_layers_per_stage"] == [1, 2]
    plans["configurations"]["3d_fullres"]["batch_size"] = 2
    tiny_dataset.write_plans(PLANS, plans)
    settings = "num_epochs=1, num_iterations_per_epoch=1, num_val_iterations_per_epoch=1"
    monkeypatch.setenv("NNUNETV2_MAMBA_SETTINGS", settings)
    monkeypatch.setattr("nnunetv2_mamba.trainers.base.nnUNetTrainerMamba.perform_actual_validation", lambda *_: None)
    for trainer in ("nnUNetTrainerSegMamba", "nnUNetTrainerSegMambaConv"):
        run_training(str(DATASET_ID), "3d_fullres", 0, trainer, PLANS, device=torch.device("cpu"))
        folder = tiny_dataset.model_folder(trainer, PLANS)
        predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), (0,))
        stage = predictor.network.encoder.stages[0]
        assert stage.gated_conv.gate == "multiply" and "Uncertainty" in type(stage.fue).__name__
        assert hasattr(stage.tom_layers[0].mamba, "conv") == (trainer == "nnUNetTrainerSegMambaConv")
        log = next((folder / "fold_0").glob("training_log*.txt")).read_text()
        gives_way = "The plan's mixer='none' gives way to this trainer's 'conv'." in log
        assert gives_way == (trainer == "nnUNetTrainerSegMambaConv")


def test_values():
    assert parse_options(["scan=hilbert+reverse"]) == {"scan": "hilbert+reverse"}
    pairs = ["gate=multiply", "d_state=32", "dropout=0.1", "fue=true", "layers=[1,2]", "scan=tri_oriented"]
    assert parse_options(pairs) == {
        "gate": "multiply", "d_state": 32, "dropout": 0.1, "fue": True, "layers": [1, 2], "scan": "tri_oriented",
    }  # fmt: skip
    assert parse_options([]) == {}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"scan": "hilbert"}, "ScanHilbert"),
        ({"scan": "six_axes+reverse"}, "ScanSixAxesReverse"),
        ({"scan": "morton", "fusion": "learned"}, "FusionLearnedScanMorton"),
        ({"fusion": "learned", "scan": "morton"}, "FusionLearnedScanMorton"),
        ({"fue": True, "d_state": 32}, "DState32FueTrue"),
    ],
)
def test_plans_are_called_after_their_options(options, name):
    assert name_of_options(options) == name


@pytest.mark.parametrize("value", [0.1, [1, 2], None, "a word", "../plans", -1, ""])
def test_what_makes_no_name(value):
    with pytest.raises(
        ValueError, match="--option key=.* makes no name for the plans: give them one with --plans-name"
    ):
        name_of_options({"key": value})


@pytest.mark.parametrize(
    ("options", "memory", "name"),
    [
        (SCAN, {}, "nnUNetSegMambaFusionLearnedScanHilbertReversePlans"),
        (SCAN, {"gpu_memory": 24.0}, "nnUNetSegMambaFusionLearnedScanHilbertReverse24GPlans"),
        (SCAN, {"match": "nnUNetPlans"}, "nnUNetSegMambaFusionLearnedScanHilbertReverseAsDefaultPlans"),
        (SCAN, {"gpu_memory": 7.5}, "nnUNetSegMambaFusionLearnedScanHilbertReverse7.5GPlans"),
        # not those of d_state=82 and 4 GiB
        ({"d_state": 8}, {"gpu_memory": 24.0}, "nnUNetSegMambaDState8_24GPlans"),
    ],
)
def test_options_make_plans_with_a_name_of_their_own(options, memory, name, tiny_dataset, monkeypatch):
    class MadeError(Exception):
        pass

    def planner(dataset_id, memory, plans_name, match, options):
        raise MadeError(plans_name, options)  # before anything is planned

    planner.check_options, planner.__name__ = PLANNERS["SegMamba"].check_options, PLANNERS["SegMamba"].__name__
    monkeypatch.setitem(command.PLANNERS, "SegMamba", planner)
    with pytest.raises(MadeError) as made:
        command.plan(DATASET_ID, "SegMamba", integrity_check=False, processes=1, options=options, **memory)
    assert made.value.args == (name, options)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["gate"], "--option gate: write KEY=VALUE"),
        (["=3"], "--option =3: write KEY=VALUE"),
        (["gate="], "--option gate=: write KEY=VALUE"),
        (["a b=3"], "write KEY=VALUE"),
        (["gate=add", "gate=multiply"], "--option gate is given twice"),
        (["layers=[1,"], "neither a word nor JSON"),
        (["dropout=[NaN]"], "neither a word nor JSON"),
        (["layers=" + "[" * 100_000], "neither a word nor JSON"),
        (["gate=os.system('x')"], "neither a word nor JSON"),
    ],
)
def test_what_is_no_pair(pairs, message):
    with pytest.raises(ValueError, match=message):
        parse_options(pairs)


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("SegMamba", {"gates": "add"}, "--option gates: SegMamba has the options n_tom_layers_per_stage, gate, fue"),
        ("SegMamba", {"n_stages": 3}, "--option n_stages: SegMamba has the options"),
        ("SegMamba", {"self": 3}, "--option self: "),
        ("UMambaEnc", {"patch_size": [8, 8, 8]}, "--option patch_size: UMambaEnc has the options"),
        ("TABSurfer", {"position_grid": [8, 8, 8]}, "--option position_grid: TABSurfer has the options mixer"),
        ("UMamba2", {"features_per_stage": 8}, r"--option features_per_stage=8: write the channels of two stages or"),
        (
            "UMamba2",
            {"features_per_stage": [8]},
            r"--option features_per_stage=\[8\]: write the channels of two stages",
        ),
        ("UMamba2", {"features_per_stage": [8, 0]}, r"--option features_per_stage=\[8, 0\]: write the channels"),
        ("UMamba2", {"norm_op": "BatchNorm3d"}, "--option norm_op: UMamba2 has the options n_blocks_per_stage, n_conv"),
        ("SegMamba", {"fue": "False"}, "--option fue=False: write true or false"),
        ("SegMamba", {"tom_residual": 0}, "--option tom_residual=0: write true or false"),
        ("MSDKMamba", {"fused_head": "no"}, "--option fused_head=no: write true or false"),
        ("UMamba2", {"conv_bias": None}, "--option conv_bias=None: write true or false"),
        ("SegMambaBot", {"bottleneck": "ss3d"}, "--option bottleneck=ss3d: SegMambaBot is MedSegMamba with bottlene"),
    ],
)
def test_what_is_no_option_of_the_network(network, options, message):
    with pytest.raises(ValueError, match=message):
        PLANNERS[network].check_options(options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("gate=max", "gate must be one of add, multiply; got 'max'"),
        ("mixer=lstm", "mixer must be one of mamba, mamba2, none, conv; got 'lstm'"),
        ("n_tom_layers_per_stage=[1]", "n_tom_layers_per_stage has 1 entries"),
        ("dt_init=3", "dt_init must be 'all' or 'first', got 3"),
        ("n_tom_layers_per_stage=two", "n_tom_layers_per_stage"),
    ],
)
def test_a_value_that_does_not_fit_is_named_and_no_plans_are_written(tiny_dataset, option, message, capsys):
    arguments = ["-d", str(DATASET_ID), "--network", "SegMamba", "-np", "1", "--no_integrity_check"]
    assert cli.main(["plan", *arguments, "--option", option, "--plans-name", PLANS]) != 0
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not (tiny_dataset.preprocessed / NAME / f"{PLANS}.json").exists()


def test_lists_are_cut_to_their_entries():
    options = {"n_blocks": [1, 2, 3], "n_convs": [1, 2], "scan": "hilbert", "grid": [1, 2, 3]}
    assert of_stages(options, {"n_blocks": 2, "n_convs": 1}) == {**options, "n_blocks": [1, 2], "n_convs": [1]}
    assert of_stages(options, {"n_blocks": 3, "n_convs": 2, "scan": 3}) == options
    assert of_stages({"n_blocks": 4}, {"n_blocks": 2}) == {"n_blocks": 4}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_what_has_an_entry_per_stage_is_known(network):
    options = network.network_class.option_names()
    assert network.network_class.missing_stages.keys() == {name for name in options if "per_stage" in name}


def test_every_network_has_options():
    for planner in PLANNERS.values():
        mixes = "mixer" in planner.trainer.network_class.option_names()
        planner.check_options({"features_per_stage": [8, 16], **({"mixer": "conv"} if mixes else {})})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {"n_tom_layers_per_stage": [1, 2]}}, "--option n_tom_.* makes no name .* with --plans-name"),
        ({"options": {"scan": "spiral"}}, "--option scan=spiral: scan must be one of raster, .*; got 'spiral'"),
        ({"options": {"scan": "ss3d_0"}}, "--option scan=ss3d_0: scan must be one of raster, .*, or one of them and"),
        ({"options": {"scan": "hilbert+"}}, "--option scan=hilbert.: scan must be one of raster"),
        ({"options": {"scan": "hilbert", "fusion": "max"}}, "--option fusion=max: fusion must be one of sum, learned"),
        ({"options": {"mixer": "lstm"}}, "--option mixer=lstm: mixer must be one of mamba, mamba2, none, conv"),
        ({"options": {"mixer": ["mamba"]}, "plans_name": PLANS}, r"--option mixer=.*: mixer must be one of mamba, "),
        ({"options": {"d_state": 0}}, "--option d_state=0: d_state must be a positive integer, got 0"),
        ({"options": {"headdim": 2.5}, "plans_name": PLANS}, "--option headdim=2.5: headdim must be a pos"),
        ({"options": {"d_state": 512}}, "--option d_state=512: 'd_state' is absurd: 512; at most 256"),
        ({"options": {"n_tom_layers_per_stage": 10**9}}, "--option n_tom_layers_per_stage=1000000000: .* at most 256"),
        ({"options": {"n_tom_layers_per_stage": [1, float("inf")]}, "plans_name": PLANS}, "is absurd: inf; at most"),
        ({"options": {"features_per_stage": [8, 10**11]}, "plans_name": PLANS}, "is absurd: 10.*; at most 16384"),
        ({"options": {"gates": 3}}, "--option gates"),
        ({"plans_name": "../Plans"}, "--plans-name must be letters, digits"),
        ({"plans_name": "my__Plans"}, "--plans-name must be .* no _ beside another"),
        ({"plans_name": "Plans_"}, "--plans-name must be .* or at an end"),
        ({"plans_name": "mine"}, "with 'Plans' in it, .*; got 'mine'"),
        ({"plans_name": "nnUNetPlans"}, "nnUNetPlans are plans of ExperimentPlanner already"),
    ],
)
def test_bad_names_and_options_are_refused_before_anything_is_done(tiny_dataset, monkeypatch, arguments, message):
    monkeypatch.setattr(command, "extract_fingerprint_dataset", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(ValueError, match=message):
        command.plan(**{"dataset_id": DATASET_ID, "network": "SegMamba", **arguments})
