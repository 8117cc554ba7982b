"""Plans for nnU-Net, made for a network and a GPU's memory by traced estimates."""
