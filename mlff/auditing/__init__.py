"""Examinations of descriptors, put together in mlff.auditing.audit."""
