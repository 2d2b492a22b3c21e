"""Segment Policy Optimization on OpenRLHF."""
