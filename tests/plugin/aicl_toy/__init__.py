"""A package that adds one of everything to aicl_fast, a file for each."""
