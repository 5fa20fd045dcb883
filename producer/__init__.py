"""The producer: it holds tickets, makes their groups with a diffusers pipeline and sends them."""
