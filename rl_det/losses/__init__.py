"""Losses as pure functions from scores, labels, log-ratios and advantages to scalars; each names its source.

The surrogates of AP rank lists of scores: `ap`, `smooth_ap`, `rank_sort`, `alrp`, `bucketed`, `listwise`, `blackbox`.
They build on `ranked_lists`. `pointwise` is the baseline that ranks nothing. `policy_gradient` has the losses of
the agents.
"""
