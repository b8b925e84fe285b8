"""One module for each chapter: the tables, figures and sentences that no other chapter has."""
