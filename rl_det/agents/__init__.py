"""A policy and an environment -> a better policy, by reinforcement learning: one algorithm, one readable file."""
