"""nnU-Net's folders of results, read: names of models, folds, learning curves, costs. Knows no networks, no images."""
