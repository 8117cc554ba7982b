"""What there is to choose from: every trainer that nnU-Net finds, every network; the verbs trainers and networks."""
