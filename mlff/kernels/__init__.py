"""How alike two geometries are: descriptors, radial functions, kernels, and what differentiation makes of them."""
