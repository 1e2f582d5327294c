"""The ways of raising the metric, one readable file each: a policy at the warm start and a task -> the policy, tuned."""
