"""What looks at a rank while it runs: metrics, views, the trace, and what all of them read."""
