"""Anything with an energy, as a force field."""
