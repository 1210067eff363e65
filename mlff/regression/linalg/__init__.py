"""Linear algebra on many threads that large matrices survive."""
