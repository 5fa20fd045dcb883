"""What `penstock profile` measures on the trainer's side: each part of the way alone, then all together.

Nothing is imported here, so that settings and help need no torch.
"""
