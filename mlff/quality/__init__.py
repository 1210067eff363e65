"""Whom to trust: self-check, audit, report."""
