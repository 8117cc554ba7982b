"""Building blocks that several networks share. Each file holds one subject.

They know ``nnunetv2_mamba.ops``, torch, and the building blocks of dynamic-network-architectures.
"""
