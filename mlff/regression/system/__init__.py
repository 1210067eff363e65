"""The linear system: labels as rows, frames in descriptor space, blocks of the kernel matrix."""
