"""Building blocks that several networks share. Each file holds one; they know ``nnunetv2_mamba.ops`` and torch only."""
