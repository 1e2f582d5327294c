"""Run folders, or what is found in a split -> tables and curves."""
