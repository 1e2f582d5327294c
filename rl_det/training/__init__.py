"""The training loop that all strategies share, and its parts."""
