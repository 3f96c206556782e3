"""Test what a `Store` promises, with one test body for every database."""
