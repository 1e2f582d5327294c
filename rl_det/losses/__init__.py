"""Scores, log-ratios and advantages -> scalars to minimise; pure functions, a formula and its source each."""
