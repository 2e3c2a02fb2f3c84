"""A comparison: plan, make, judge."""
