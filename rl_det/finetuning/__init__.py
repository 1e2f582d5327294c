"""Tune a detector by strategies, and compare each with the control in one table."""
