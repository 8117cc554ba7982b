"""The list of networks, and what is shown of each."""

from __future__ import annotations

import json

import pytest
from tiny_dataset import DATASET_ID

from nnunetv2_mamba import cli
from nnunetv2_mamba.architectures.registry import NETWORKS
from nnunetv2_mamba.catalogue.networks import argument_texts, describe


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_every_option_is_documented(network):
    description = describe(network)
    undocumented = [name for name, argument in description["arguments"].items() if not argument["text"]]
    assert not undocumented
    assert json.loads(json.dumps(description))["trainers"].keys() == description["trainers"].keys()


def test_no_option_is_a_class_which_no_command_line_can_name():
    """``plan --option`` refuses these; plans have them."""
    shown = describe(NETWORKS["UMamba2"])["arguments"].keys()
    assert {"norm_op", "dropout_op", "nonlin"} <= {*NETWORKS["UMamba2"].network_class.option_names()} - shown
    assert {"norm_op_kwargs", "conv_bias", "mixer", "scan"} <= shown


def test_texts_of_a_docstring():
    class Documented:
        """One line.

        Args:
            first: of two
                lines, with ``code``.
            second, third: see :class:`.Other`.

        Raises:
            ValueError: never.
        """

    assert argument_texts(Documented) == {
        "first": "of two lines, with code.",
        "second": "see Other.",
        "third": "see Other.",
    }


def test_the_list(capsys):
    assert cli.main(["networks"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(NETWORKS)


def test_one_network(tiny_dataset, capsys):
    arguments = ["networks", "UMambaBot", "-d", str(DATASET_ID), "-p", "tinyUMambaBotPlans"]
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert "https://arxiv.org/abs/2401.04722" in text and "  scan = 'raster': " in text
    assert cli.main([*arguments, "--json"]) == 0
    (description,) = json.loads(capsys.readouterr().out)
    assert description["arguments"]["d_state"]["default"] == 16
    costs = description["costs"]
    assert list(costs) == list(description["trainers"])
    assert costs["nnUNetTrainerUMambaBotNoMamba"]["parameters"] < costs["nnUNetTrainerUMambaBot"]["parameters"]
    assert f"{costs['nnUNetTrainerUMambaBot']['parameters']:,}" in text
