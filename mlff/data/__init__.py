"""What was calculated: geometries with their labels, read, checked, batched."""
