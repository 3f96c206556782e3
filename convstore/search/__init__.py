"""What a search query means: folded text, its terms, and whether a text matches. Pure: no database, no model."""
