"""The strategies, one readable file each: every one tunes a policy from the warm start to raise the metric."""
