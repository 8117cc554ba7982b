"""A plan that names a pre-training, as nnU-Net's ``nnUNetv2_plan_like_dynamic`` writes it, starts from its encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from tiny_dataset import TinyDataset


@pytest.fixture
def pretrained_plans(tiny_dataset: TinyDataset, make_trainer, tmp_path: Path):
    """Write plans of a trainer's network with ``pretrain_info``, and the checkpoint; return the plans' name and it."""

    def make(name: str) -> tuple[str, Path]:
        donor = make_trainer(name)
        donor.initialize()
        network = donor.network
        keys = {
            key: getattr(network, key) for key in ("key_to_encoder", "key_to_stem", "keys_to_in_proj", "key_to_lpe")
        }
        file = tmp_path / "pretraining.pth"
        torch.save({"network_weights": network.state_dict(), "nnssl_adaptation_plan": keys, "citations": []}, file)
        plans = tiny_dataset.plans(f"tiny{type(network).__name__}Plans")
        plans["pretrain_info"] = {"checkpoint_path": str(file), "checkpoint_name": "Made up", **keys}
        tiny_dataset.write_plans("ptPlans_dynamic__made_up", plans)
        return "ptPlans_dynamic__made_up", file

    return make


def test_a_training_starts_from_the_pretrained_encoder(make_trainer, pretrained_plans):
    plans, file = pretrained_plans("nnUNetTrainerMSDKMambaEMATeacher")
    trainer = make_trainer("nnUNetTrainerMSDKMambaEMATeacher", plans=plans)
    trainer.on_train_start()
    given = torch.load(file)["network_weights"]
    assert all(torch.equal(value, given[key]) for key, value in trainer.network.state_dict().items() if "stages" in key
               and key.startswith("encoder"))  # fmt: skip
    assert not torch.equal(
        trainer.network.state_dict()["decoder.stages.0.0.weight"], given["decoder.stages.0.0.weight"]
    )
    log = next(Path(trainer.output_folder).glob("training_log*.txt")).read_text()
    assert f"Encoder pre-trained by {file}. Not pre-trained: the decoder alone" in log


def test_weights_given_to_the_command_come_after_the_plans(make_trainer, pretrained_plans, tmp_path):
    """``nnUNetv2_train -pretrained_weights`` puts them into an initialised trainer."""
    plans, _ = pretrained_plans("nnUNetTrainerUMambaBot")
    other = make_trainer("nnUNetTrainerUMambaBot")
    other.initialize()
    other.save_checkpoint(str(tmp_path / "other.pth"))
    trainer = make_trainer("nnUNetTrainerUMambaBot", plans=plans)
    trainer.initialize()
    load_pretrained_weights(trainer.network, str(tmp_path / "other.pth"))
    trainer.on_train_start()
    given = other.network.state_dict()
    for key, value in trainer.network.state_dict().items():
        assert ".seg_layers." in key or torch.equal(value, given[key]), key


def test_continuing_needs_no_pretraining(make_trainer, pretrained_plans):
    plans, file = pretrained_plans("nnUNetTrainerUMambaBot")
    trainer = make_trainer("nnUNetTrainerUMambaBot", plans=plans)
    trainer.run_training()
    file.unlink()
    continued = make_trainer("nnUNetTrainerUMambaBot", plans=plans)
    continued.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    continued.on_train_start()
    for key, value in continued.network.state_dict().items():
        assert torch.equal(value, trainer.network.state_dict()[key]), key


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (Path.unlink, "No such file"),
        (lambda file: file.write_bytes(file.read_bytes()[:1000]), "it is damaged or no checkpoint"),
    ],
)
def test_a_pretraining_that_cannot_be_read_is_named(make_trainer, pretrained_plans, spoil, reason):
    plans, file = pretrained_plans("nnUNetTrainerSegMamba")
    spoil(file)
    with pytest.raises(ValueError, match=f"{file}, which pretrain_info of the plans {plans} names.*{reason}"):
        make_trainer("nnUNetTrainerSegMamba", plans=plans).on_train_start()
