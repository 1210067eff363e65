"""Derivatives with a physical name."""
