"""Policies: the detector's own head, alone or with a module beside it, as a distribution over actions."""
