"""Weights of a self-supervised pre-training, in nnssl's format, reach the encoder of every network."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from dynamic_network_architectures.architectures.abstract_arch import test_submodules_loadable as check_contract
from test_networks import NAMES, build

from nnunetv2_mamba.architectures.pretrained_encoder import load_pretrained_encoder

MODULE = "nnunetv2.training.nnUNetTrainer.pretraining.dynamicPretrainedTrainer"


def has_nnunets_loader() -> bool:
    try:
        return importlib.util.find_spec(MODULE) is not None
    except ModuleNotFoundError:
        return False


def pretrained(network: torch.nn.Module, encoder: str = "", stem: str = "") -> dict:
    """What nnssl saves of a network: weights and the keys of dynamic-network-architectures' contract.

    Args:
        encoder, stem: their names in the checkpoint, where they are others than here.
    """
    encoder, stem = encoder or network.key_to_encoder, stem or network.key_to_stem
    weights = {}
    for name, tensor in network.state_dict().items():
        if name.startswith("decoder."):
            continue
        for key, other in ((network.key_to_stem, stem), (network.key_to_encoder, encoder)):
            if name.startswith(f"{key}."):
                name = other + name[len(key) :]
                break
        weights[name] = tensor.clone()
    plan = {
        "key_to_encoder": encoder,
        "key_to_stem": stem,
        "keys_to_in_proj": list(network.keys_to_in_proj),
        "key_to_lpe": network.key_to_lpe,
    }
    return {"network_weights": weights, "nnssl_adaptation_plan": plan}


def before_the_decoder(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in network.state_dict().items() if not name.startswith(("decoder.", "fused"))}


@pytest.mark.parametrize("name", NAMES)
def test_contract_of_dynamic_network_architectures(name):
    network, _ = build(name)
    check_contract(network)
    assert network.get_submodule(network.keys_to_in_proj[0]).weight.shape[1] == network.input_channels
    for module in (network.key_to_stem, *network.keys_to_in_proj):
        assert module.startswith(network.key_to_encoder.removesuffix(".stages"))
    if network.key_to_lpe is not None:
        assert network.get_parameter(network.key_to_lpe).requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_encoder_and_bottleneck_are_taken_and_the_decoder_is_not(name):
    source, _ = build(name)
    for parameter in source.parameters():  # norms and biases too, which start alike everywhere
        parameter.data.normal_()
    target, _ = build(name, num_classes=5)
    decoder = {key: value.clone() for key, value in target.decoder.state_dict().items()}
    missing = load_pretrained_encoder(target, pretrained(source))
    taken, given = before_the_decoder(target), before_the_decoder(source)
    assert missing == []
    for key in taken:
        assert torch.equal(taken[key], given[key]), key
    for key, value in target.decoder.state_dict().items():
        assert torch.equal(value, decoder[key]), key


@pytest.mark.parametrize("name", ["segmamba", "ss3d", "transformer", "msd-kmamba", "umamba bot", "umamba enc"])
def test_other_numbers_of_channels_and_other_names(name):
    """Images of one channel, seen as two equal ones, give what they gave in pre-training."""
    source, x = build(name, input_channels=1)
    target, _ = build(name, input_channels=2)
    checkpoint = pretrained(source, encoder="student.trunk", stem="student.first")
    assert load_pretrained_encoder(target, checkpoint) == []
    with torch.no_grad():
        expected = source.eval().encoder(x)
        actual = target.eval().encoder(x.repeat(1, 2, 1, 1, 1))
    # SegMamba and MedSegMamba begin with convolutions of the image; norms follow, so rounding is all that differs
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_position_embedding_for_another_patch_keeps_its_values():
    source, _ = build("transformer")
    target, _ = build("transformer", position_grid=(2, 2, 2))
    target.bottleneck.position_embedding.embedding.data.fill_(3)
    assert load_pretrained_encoder(target, pretrained(source)) == ["bottleneck.position_embedding.embedding"]
    assert (target.bottleneck.position_embedding.embedding == 3).all()


def test_deeper_networks_keep_what_the_pretraining_had_not():
    source, _ = build("umamba bot")
    checkpoint = pretrained(source)
    dropped = [key for key in checkpoint["network_weights"] if key.startswith("encoder.stages.2.")]
    for key in dropped:
        del checkpoint["network_weights"][key]
    target, _ = build("umamba bot")
    assert load_pretrained_encoder(target, checkpoint) == dropped
    checkpoint["network_weights"][dropped[0]] = [0.5]  # no tensor
    assert load_pretrained_encoder(target, checkpoint) == dropped


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("network_weights"), "not a checkpoint of nnssl"),
        (lambda c: c.pop("nnssl_adaptation_plan"), "not a checkpoint of nnssl"),
        (lambda c: c["nnssl_adaptation_plan"].update(key_to_encoder="trunk", key_to_stem="stem"), "no tensor of SegM"),
        (lambda c: (c["nnssl_adaptation_plan"].update(key_to_encoder=None), c.update(network_weights={})),
            "whose names start with 'encoder'"),
        (lambda c: c["nnssl_adaptation_plan"].update(key_to_stem=3), "adaptation_plan, key_to_stem is no name: 3"),
        (lambda c: c.update(network_weights=pretrained(build("segmamba", features_per_stage=[16, 16, 16])[0])[
            "network_weights"]), r"do not fit SegMamba: encoder\.\S+ \(16, .* for encoder\.\S+ \(8, .* and \d+ more"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_and_nothing_is_copied(change, message):
    checkpoint = pretrained(build("segmamba")[0])
    change(checkpoint)
    target, _ = build("segmamba")
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_pretrained_encoder(target, checkpoint)
    for key, value in target.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_file_of_something_else_is_no_pretraining():
    with pytest.raises(ValueError, match="not a checkpoint of nnssl: it has no network_weights"):
        load_pretrained_encoder(build("segmamba")[0], torch.zeros(3))


@pytest.mark.skipif(
    not has_nnunets_loader(), reason="this nnU-Net (2.8.1 as released) has no nnUNetv2_train_pretrained"
)
@pytest.mark.parametrize("name", NAMES)
def test_nnunets_own_loader(name, tmp_path):
    """The code path of ``nnUNetv2_train_pretrained -tr DynamicPretrainedTrainer``, given the network."""
    trainer = importlib.import_module(MODULE).DynamicPretrainedTrainer
    source, x = build(name)
    checkpoint = pretrained(source)
    torch.save(checkpoint, tmp_path / "pretrained.pth")
    target, _ = build(name)
    plan = checkpoint["nnssl_adaptation_plan"]
    _, mismatch = trainer.load_pretrained_weights_dynamic(
        target,
        pretrained_weights_path=str(tmp_path / "pretrained.pth"),
        pt_input_channels=2,
        downstream_input_channels=2,
        pt_input_patchsize=list(x.shape[2:]),
        downstream_input_patchsize=list(x.shape[2:]),
        pt_key_to_encoder=plan["key_to_encoder"],
        pt_key_to_stem=plan["key_to_stem"],
        pt_keys_to_in_proj=tuple(plan["keys_to_in_proj"]),
        pt_key_to_lpe=plan["key_to_lpe"],
        target_kernel_sizes=[list(kernel) for kernel in target.topology.kernel_sizes],
        target_n_stages=target.topology.n_stages,
    )
    assert not mismatch
    for key, value in target.encoder.state_dict().items():
        assert torch.equal(value, source.encoder.state_dict()[key]), key
