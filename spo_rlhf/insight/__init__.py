"""What a run can be looked at with: a page of its segments, the same on a terminal, a report."""
