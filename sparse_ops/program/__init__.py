"""A converted network as data, what runs it, and what is saved of it."""
