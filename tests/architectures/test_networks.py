"""What holds for every network, whatever its plan and options."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from comparison import assert_close
from fake_gpu import needs_fake_gpu
from registered_networks import OF_MONAI, fitting, own_stages, slow_if_of_monai
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunetv2_mamba.architectures import MedSegMamba, MSDKMamba, SegMamba, UMambaBot, UMambaEnc, registry
from nnunetv2_mamba.architectures.topology import fitting_size
from nnunetv2_mamba.ops import backend_selection

CUBIC3 = dict(conv_op=nn.Conv3d, n_stages=3, kernel_sizes=3, strides=[1, 2, 2])
ANISOTROPIC3 = dict(
    conv_op=nn.Conv3d,
    n_stages=3,
    kernel_sizes=[[1, 3, 3], [1, 3, 3], [3, 3, 3]],
    strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
)
PLANE3 = dict(conv_op=nn.Conv2d, n_stages=3, kernel_sizes=3, strides=[1, 2, 2])

SHAPES = {
    "cubic": (CUBIC3, (16, 16, 16)),
    "non-cubic": (CUBIC3, (8, 16, 12)),
    "odd grid": (CUBIC3, (12, 20, 4)),
    "anisotropic": (ANISOTROPIC3, (6, 16, 20)),
    "2D": (PLANE3, (12, 20)),
}

NETWORKS = {
    "segmamba": (SegMamba, dict(n_tom_layers_per_stage=1)),
    "segmamba paper": (SegMamba, dict(n_tom_layers_per_stage=1, gate="multiply", fue=True, dt_init="all")),
    "segmamba none": (SegMamba, dict(n_tom_layers_per_stage=1, mixer="none")),
    "segmamba conv": (SegMamba, dict(n_tom_layers_per_stage=1, mixer="conv")),
    "ss3d": (MedSegMamba, dict(bottleneck="ss3d", d_state=4)),
    "ss3d none": (MedSegMamba, dict(bottleneck="ss3d", mixer="none")),
    "ss3d conv": (MedSegMamba, dict(bottleneck="ss3d", mixer="conv", d_state=4)),
    "tom": (MedSegMamba, dict(bottleneck="tom", d_state=4)),
    "tom none": (MedSegMamba, dict(bottleneck="tom", mixer="none")),
    "tom conv": (MedSegMamba, dict(bottleneck="tom", mixer="conv")),
    "transformer": (MedSegMamba, dict(bottleneck="transformer", mlp_channels=24)),
    "transformer none": (MedSegMamba, dict(bottleneck="transformer", mixer="none", mlp_channels=24)),
    "transformer conv": (MedSegMamba, dict(bottleneck="transformer", mixer="conv", mlp_channels=24)),
    "no bottleneck": (MedSegMamba, dict(bottleneck="none")),
    "conv bottleneck": (MedSegMamba, dict(bottleneck="conv")),
    "msd-kmamba": (MSDKMamba, dict(n_mamba_layers_per_stage=1)),
    "msd-kmamba bspline": (MSDKMamba, dict(n_mamba_layers_per_stage=1, kan="bspline", scan="tri_oriented")),
    "msd-kmamba rbf": (MSDKMamba, dict(n_mamba_layers_per_stage=1, kan="rbf", gate="multiply", mixer="conv")),
    "msd-kmamba mlp": (MSDKMamba, dict(n_mamba_layers_per_stage=1, kan="mlp", kan_wiring="skip", mixer="none")),
    "msd-kmamba as segmamba": (MSDKMamba, dict(n_mamba_layers_per_stage=1, kan_wiring="skip", layout="segmamba")),
    "umamba bot": (UMambaBot, dict()),
    "umamba bot none": (UMambaBot, dict(mixer="none")),
    "umamba bot conv": (UMambaBot, dict(mixer="conv")),
    "umamba enc": (UMambaEnc, dict()),
    "umamba enc none": (UMambaEnc, dict(mixer="none")),
    "umamba enc conv": (UMambaEnc, dict(mixer="conv")),
}
for _name, _network in registry.NETWORKS.items():  # those of which there is no example above
    for _suffix, _changed in {"": {}, **{key: variant.options for key, variant in _network.variants.items()}}.items():
        _options = {**_network.options, **_changed}
        _examples = [options for kind, options in NETWORKS.values() if kind is _network.network_class]
        if not any(_options.items() <= options.items() for options in _examples):
            NETWORKS[_name + _suffix] = (_network.network_class, {**_network.small, **_options})


NAMES = slow_if_of_monai(NETWORKS)


def build(name: str, shape: str = "cubic", **overrides) -> tuple[nn.Module, torch.Tensor]:
    """A small network of the given kind and an input that fits it."""
    network_class, options = NETWORKS[name]
    topology, grid = SHAPES[shape]
    options = dict(input_channels=2, num_classes=3, features_per_stage=[8, 16, 16]) | topology | options | overrides
    if network_class is MedSegMamba:
        options = dict(bottleneck_channels=16, n_bottleneck_blocks=2) | options
    if network_class.__name__ in OF_MONAI:
        options |= own_stages(network_class.__name__, options)
        grid = fitting(network_class.__name__, options["strides"], grid)
    strides = [(stride,) * len(grid) if isinstance(stride, int) else stride for stride in options["strides"]]
    options = network_class.patch_options(grid, options | {"strides": strides}) | options
    return network_class(**options), torch.randn(2, options["input_channels"], *grid)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_every_shape_trains(name, shape):
    """Logits of the right sizes at every resolution, and a finite gradient for every parameter."""
    network, x = build(name, shape, deep_supervision=True)
    logits = network(x)
    strides = network.topology.strides
    grid = torch.tensor(x.shape[2:])
    assert len(logits) == len(strides) - 1
    for level, head in enumerate(logits):
        for stride in strides[1 : level + 1]:
            grid = grid // torch.as_tensor(stride)
        assert head.shape == (2, 3, *grid.tolist())
        grid = torch.tensor(x.shape[2:])
    sum(head.square().mean() for head in logits).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{key} has no gradient"
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_equals_training_without_drop_rates(name):
    no_drop = dict(dropout=0.0, drop_path=0.0) if NETWORKS[name][0] is MedSegMamba else {}
    network, x = build(name, **no_drop)
    network, x = network.double(), x.double()
    with torch.no_grad():
        assert_close(network.train()(x), network.eval()(x), 1e-12)


@needs_fake_gpu
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_under_autocast_on_a_fake_gpu(name, training, monkeypatch):
    """What CUDA's autocast casts, and the Triton backend's shapes and dtypes; nothing is computed."""
    monkeypatch.setattr(backend_selection, "unavailable", lambda *_: None)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    with FakeTensorMode(), torch.device("cuda"), torch.autocast("cuda", torch.float16):
        network, x = build(name)
        logits = network.train(training)(x)
    assert (logits.shape, logits.dtype, logits.device.type) == ((2, 3, *x.shape[2:]), torch.float16, "cuda")


@pytest.mark.parametrize("mixer", ["mamba", "mamba2", "conv"])
@pytest.mark.parametrize("name", ["segmamba", "ss3d", "tom", "umamba bot", "umamba enc", "msd-kmamba", "UMamba2"])
def test_sizes_that_are_none_are_named(name, mixer):
    """Neither taken for the default nor left to torch's messages."""
    for size in {"d_state", "headdim", "expand"} & {*NETWORKS[name][0].option_names()}:
        for value in (0, 2.5, True):
            with pytest.raises(ValueError, match=f"{size} must be a positive integer, got {value!r}"):
                build(name, mixer=mixer, **{size: value})


def test_dropout_and_drop_path_act_in_training_only():
    for rates in (dict(dropout=0.5, drop_path=0.0), dict(dropout=0.0, drop_path=0.5)):
        network, x = build("ss3d", **rates)
        with torch.no_grad():
            assert not torch.equal(network.train()(x), network(x))
            assert torch.equal(network.eval()(x), network(x))


@pytest.mark.parametrize("name", NAMES)
def test_save_load_pickle_copy(name):
    network, x = build(name)
    network.eval()
    with torch.no_grad():
        expected = network(x)
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    buffer.seek(0)
    fresh, _ = build(name)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    for other in (fresh.eval(), pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        with torch.no_grad():
            assert torch.equal(other(x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_prediction_takes_a_checkpoint_trained_with_deep_supervision(name):
    """nnU-Net trains with deep supervision and builds without for prediction; both give the same segmentation."""
    trained, x = build(name, deep_supervision=True)
    predicting, _ = build(name)
    predicting.load_state_dict(trained.state_dict())
    with torch.no_grad():
        expected = trained.eval()(x)[0]
        assert torch.equal(predicting.eval()(x), expected)
        trained.decoder.deep_supervision = False  # as nnU-Net's validation does
        assert torch.equal(trained(x), expected)


def test_state_dict_holds_floating_parameters_only():
    """No scan tables: an exponential moving average of the weights must not touch them."""
    for name in ("segmamba", "ss3d", "tom", "umamba bot", "umamba enc", "msd-kmamba", "msd-kmamba bspline"):
        network, _ = build(name)
        assert set(network.state_dict()) == {key for key, _ in network.named_parameters()}
        assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_state_dict_and_result_are_independent_of_the_backend(monkeypatch):
    for name in ("segmamba", "ss3d", "tom", "umamba enc", "msd-kmamba"):
        network, x = build(name)
        network, x = network.double().eval(), x.double()
        results, keys = [], []
        for backend in ("auto", "torch", "reference"):
            monkeypatch.setenv("NNUNETV2_MAMBA_SCAN", backend)
            fresh, _ = build(name)
            keys.append(list(fresh.state_dict()))
            with torch.no_grad():
                results.append(network(x))
        assert keys[0] == keys[1] == keys[2]
        assert_close(results[1], results[0], 1e-9)
        assert_close(results[2], results[0], 1e-9)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("classes", [2, 40])
@pytest.mark.parametrize("name", ["segmamba", "ss3d", "umamba bot", "umamba enc", "msd-kmamba"])
def test_channels_and_classes(name, channels, classes):
    network, x = build(name, input_channels=channels, num_classes=classes)
    with torch.no_grad():
        assert network(x).shape == (2, classes, *x.shape[2:])


@pytest.mark.parametrize("name", NAMES)
def test_another_patch_size_than_built_for(name):
    network, x = build(name)
    size = fitting_size((8, 12, 20), network.topology.strides, False)
    if name == "UNETR":
        with pytest.raises(ValueError, match=r"of size \(16, 16, 32\), but .* built for \(32, 16, 16\)"):
            network(torch.randn(1, 2, *size))
        return
    with torch.no_grad():
        assert network.eval()(torch.randn(1, 2, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("segmamba", dict(mixer="lstm"), "mixer must be one of mamba, mamba2, none, conv"),
        ("segmamba", dict(gate="max"), "gate must be one of add, multiply"),
        ("segmamba", dict(dt_init="none"), "dt_init"),
        ("segmamba", dict(strides=[2, 2, 2]), r"strides\[0\]"),
        ("segmamba", dict(kernel_sizes=4), "odd"),
        ("segmamba", dict(kernel_sizes=[3, 3]), "kernel_sizes has 2 entries"),
        ("segmamba", dict(kernel_sizes=[3, 3, [3, 3.5, 3]]), r"kernel_sizes must hold 3 .*, got \[3, 3.5, 3\]"),
        ("segmamba", dict(strides=[1, 2, 2.5]), "strides must hold 3 positive integers per stage, got 2.5"),
        ("segmamba", dict(strides=[1, 2, [2, None, 2]]), r"strides must hold 3 .*, got \[2, None, 2\]"),
        ("segmamba", dict(strides=[1, 2, ["2", "2", "2"]]), "strides must hold 3 positive integers"),
        ("segmamba", dict(strides=[1, 2, [2, float("inf"), 2]]), "strides must hold 3 positive integers"),
        ("segmamba", dict(n_stages="3"), "n_stages must be a whole number of at least 2, got '3'"),
        ("segmamba", dict(features_per_stage=[8, 16]), "features_per_stage has 2 entries"),
        ("segmamba", dict(features_per_stage=[8, 2.5, 16]), r"features_per_stage\[1\] must be a positive"),
        ("segmamba", dict(n_tom_layers_per_stage=2.5), "n_tom_layers_per_stage must be a number or a list .* got 2.5"),
        (
            "segmamba",
            dict(n_tom_layers_per_stage=[1, 2.5]),
            r"n_tom_layers_per_stage\[1\] must be an integer from 0 on",
        ),
        ("segmamba", dict(n_tom_layers_per_stage=-1), r"n_tom_layers_per_stage\[0\] must be .* from 0 on, got -1"),
        (
            "msd-kmamba",
            dict(n_mamba_layers_per_stage=[-1, 2]),
            r"n_mamba_layers_per_stage\[0\] must be an integer from",
        ),
        ("segmamba", dict(n_tom_layers_per_stage=[1]), "n_tom_layers_per_stage has 1 entries"),
        ("segmamba", dict(conv_op=nn.Conv1d), "conv_op"),
        ("ss3d", dict(bottleneck="lstm"), "bottleneck must be one of"),
        ("ss3d", dict(features_per_stage=[8, 12, 16]), "multiples of 8"),
        ("ss3d", dict(drop_path=1.0), "drop_path"),
        ("ss3d", dict(position_grid=(4, 4, 4)), "position_grid"),
        ("transformer", dict(position_grid=None), "position_grid"),
        ("transformer", dict(bottleneck_channels=24), "16 attention heads"),
        ("transformer", dict(d_state=4), "d_state"),
        ("transformer", dict(headdim=4), "d_state, headdim and expand have no effect"),
        ("transformer", dict(mixer="mamba2"), "mixer must be one of mamba, none, conv with attention; got 'mamba2'"),
        ("ss3d", dict(mixer="mamba2", headdim=0), "headdim must be a positive integer, got 0"),
        ("conv bottleneck", dict(mixer="none"), "no effect"),
        ("umamba bot", dict(mixer="lstm"), "mixer must be one of mamba, mamba2, none, conv"),
        ("umamba bot", dict(conv_op=nn.Conv1d), "conv_op"),
        ("umamba bot", dict(n_blocks_per_stage=[2, 2]), "n_blocks_per_stage has 2 entries"),
        ("umamba enc", dict(n_blocks_per_stage_decoder=[2, 0]), r"n_blocks_per_stage_decoder\[1\] must be a positive"),
        ("umamba enc", dict(patch_size=(16, 16, 18)), "axis 2 .* size 18.* multiple of 4"),
        ("umamba enc", dict(patch_size=(16, 16)), "must have 3 axes"),
    ],
)
def test_arguments_that_do_not_fit_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(name, **arguments)


def test_initial_step_sizes():
    """The forward direction starts at softplus(bias) in [0.001, 0.1]; the others only with dt_init="all"."""
    for dt_init in ("first", "all"):
        network, _ = build("segmamba", dt_init=dt_init)
        steps = nn.functional.softplus(network.encoder.stages[0].tom_layers[0].mamba.ssm.dt_proj_bias)
        inside = ((steps > 9e-4) & (steps < 0.11)).all(dim=1).tolist()
        assert inside == [True, dt_init == "all", dt_init == "all"]


def test_state_space_parameters_are_marked_for_no_weight_decay():
    network, _ = build("ss3d")
    marked = {key.split(".")[-1] for key, p in network.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert marked == {"A_log", "D", "dt_proj_bias"}


@pytest.mark.parametrize(
    ("network", "extra", "expected"),
    [
        (SegMamba, dict(input_channels=4, num_classes=4, n_stages=5), 67_416_196),
        (SegMamba, dict(input_channels=1, num_classes=3, n_stages=5), 67_362_723),
        (MedSegMamba, dict(input_channels=1, num_classes=32, n_stages=4), 84_400_736),
        (MedSegMamba, dict(input_channels=1, num_classes=25, n_stages=4), 84_400_281),
        (MedSegMamba, dict(input_channels=1, num_classes=32, n_stages=4, bottleneck="tom"), 108_251_744),
    ],
)
def test_parameter_counts_of_the_released_networks(network, extra, expected):
    """The first four are the released code's; the last is the paper's comparator, of which 108.25 M is known."""
    strides = [1] + [2] * (extra["n_stages"] - 1)
    features = network.default_features(extra["n_stages"])
    with torch.device("meta"):
        built = network(features_per_stage=features, conv_op=nn.Conv3d, kernel_sizes=3, strides=strides, **extra)
    assert sum(parameter.numel() for parameter in built.parameters()) == expected


@pytest.mark.parametrize("bottleneck", ["ss3d", "tom", "transformer"])
def test_conv_twin_has_about_as_many_parameters(bottleneck):
    def parameters(mixer):
        grid = (12, 12, 12) if bottleneck == "transformer" else None
        features = MedSegMamba.default_features(4)
        with torch.device("meta"):
            network = MedSegMamba(
                1, 4, features, nn.Conv3d, 3, [1, 2, 2, 2], 32, bottleneck=bottleneck, mixer=mixer, position_grid=grid
            )
        return sum(parameter.numel() for parameter in network.parameters())

    assert parameters("none") < parameters("mamba")
    assert parameters("conv") == pytest.approx(parameters("mamba"), rel=0.02)
