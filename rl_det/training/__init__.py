"""Strategies 1 and 2: a detector or a policy and labelled images -> the same, trained under the lead of validation mAP."""
