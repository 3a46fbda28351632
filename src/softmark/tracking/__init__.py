"""How training and sweeps are watched: CSV curves, Weights & Biases, or nothing."""
