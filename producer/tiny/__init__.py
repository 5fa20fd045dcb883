"""How the shipped tiny Stable Diffusion came to be: its parts, its training, and what reads its digits."""
