"""What a fit will take, before it is begun: unknowns, method, memory and time."""
