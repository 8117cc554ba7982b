"""Building blocks of the networks. Each file holds one; they know ``nnunetv2_mamba.ops`` and torch only."""
