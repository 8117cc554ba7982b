"""What this package knows of nnU-Net's inside: names, formats and the order of calls that no documentation promises.

Methods that a trainer overrides stand in the trainers. ``tests/nnunet`` has a test for everything relied upon, here and
there, named after it.
"""
