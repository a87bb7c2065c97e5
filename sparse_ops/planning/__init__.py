"""Measuring and choosing: what a model is made into."""
