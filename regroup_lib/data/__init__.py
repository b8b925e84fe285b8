"""Data sets in memory, checked; tasks made of them; data of a user's own."""
