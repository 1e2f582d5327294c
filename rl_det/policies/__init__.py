"""Observation -> a distribution over actions: the detector's own head, alone or with a context module, is the policy."""
