"""The book: plans of runs, verdicts on the paper's claims, tables and figures made from records."""
