"""From labels to a potential."""
