"""How good an encoder is: `penstock evaluate` on labelled images, and the looks that a run takes while it trains.

Nothing is imported here, so that settings and help need no torch.
"""
