"""A model as data: one representation, which every pass reads and writes."""
