"""Prompt sources, and the sampler that makes tickets of them."""
