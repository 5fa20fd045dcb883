"""Captions that stay in their files: text, tables, JSON lines, Parquet and Hugging Face's."""
