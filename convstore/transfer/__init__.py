"""Conversations brought in from other programs' files, and taken out."""
