"""Those who besiege a rank in `security.py`: strangers without a key, and insiders with one that mean no good.

Each side is a process of its own, gives way to the honest ones for the processor, whose time a real attacker would not
take, and writes down what it did and what became of it.
"""
