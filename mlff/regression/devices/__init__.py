"""Fits whose matrix, products and factorisation are shared among JAX devices, of one process or of several."""
