"""The bounds of metrics in healthy training, beyond which a row's lines under the table tell of it; training goes on.

They come from 37 PPO runs that were taken for healthy by their course: 65 to 900 updates on digit scenes, BCCD and dsb2018,
with the rewards pool_ap, ap50, pool_f1, lrp, pool_cost and count_error. No update of theirs went beyond half the bound of the
KL, a third of that of the mean shift, and a ninth of that of the residual, which is wide because hand-set votes alone add more
where few candidates act. A run of 20 updates once reached 1.1 times the bound of the KL. Of runs that collapsed in validation,
some had ten times the bound of the KL, and others stayed within all bounds. A run of a few updates begins at its full rate,
and is far out of the KL's bound at once (8.5 in a smoke run): it shows that all works, and is not watched.
"""

FEWEST_UPDATES = 20
"""Shorter runs are not watched."""
KL_OVER_TARGET = 20.0
"""The KL from the policy that sampled, as a multiple of the target at which the remaining epochs are skipped."""
MEAN_SHIFT = 2.0
"""The mean shift of the logits since the candidates were shown, in nats."""
RESIDUAL = 5.0
"""The mean square of what a module adds to the head's logits."""
