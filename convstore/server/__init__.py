"""The service: OpenAI's HTTP API on a store. Only `convstore serve` imports it."""
