"""The audit of a descriptor: what it must keep, what it sees, where it has kinks."""
