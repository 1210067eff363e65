"""Hyperparameters by gradient: objectives of frames left out, their gradients, and the way down."""
