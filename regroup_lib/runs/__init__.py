"""Runs: from a spec to a record on disk, alone or in a sweep."""
