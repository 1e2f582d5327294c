"""Run folders or their results -> tables."""
