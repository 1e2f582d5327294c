"""Scores, labels, log-ratios and advantages -> scalars to minimise; pure functions, a formula and its source each.

Surrogates of AP rank lists of scores: `ap`, `smooth_ap`, `rank_sort`, `alrp`, `bucketed`, `listwise`, `blackbox`, on what
`ranked_lists` offers; `pointwise` is what they are held against; `gathered` makes one list of several processes' scores.
`policy_gradient` is for the agents.
"""
