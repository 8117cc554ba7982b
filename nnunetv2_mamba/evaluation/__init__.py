"""How good segmentations are: measured per case and label, written as tables. Knows folders of images; no networks."""
