"""The verbs of the command ``nnunetv2_mamba``, one module each.

A module has ``HELP`` (one line), ``EXAMPLES`` (commands, for the end of its help), ``add_arguments(parser)`` and
``run(args) -> int`` (the exit code). Its top imports nothing heavy (NumPy, torch, nnU-Net), so that ``--help`` is fast;
what the verb needs of these is imported in ``run``.
"""
