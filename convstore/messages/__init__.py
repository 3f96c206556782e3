"""Messages as plain values: the codec, completions, streams, tool calls, tokens."""
