"""Prompts from a command in natural language: of a model behind an endpoint, or of a small grammar."""
