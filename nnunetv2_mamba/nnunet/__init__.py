"""What this package knows of nnU-Net's inside: names, formats and the order of calls that no documentation promises.

Methods that a trainer overrides stand in the trainers, those of the predictor in ``packaging/tile_predictor.py``; what
its ``initialize_from_trained_model_folder`` does with files is done with anybody's in ``packaging/network_loading.py``.
``tests/nnunet`` has a test for everything relied upon, here and there, named after it.
"""
