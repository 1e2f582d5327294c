"""Tables, curves and pictures of runs and of splits."""
