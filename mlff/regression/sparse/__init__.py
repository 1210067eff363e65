"""Models in the span of a few functionals: how these are chosen, what is kept of the labels, noise, and error bars."""
