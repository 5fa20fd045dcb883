"""Other ways to bring images to a trainer, each as its own users would write it, for benchmarks to compare with.

The ways over a wire (`SIDES`, one module each) have one interface: `groups(shape)` is a context that starts a sender
process and gives a function `get() -> uint8 [m, H, W, 3]`: the next group, in the order of `sender.ready_groups`. On
exit the sender is gone. `receive.py` measures one. `disk.py` is the way over files.
"""

SIDES = {
    "penstock": "Penstock",
    "penstock_keys": "Penstock with keys",
    "raw_zmq": "raw ZeroMQ, zero-copy",
    "raw_zmq_keys": "raw ZeroMQ with CURVE",
    "grpc": "gRPC streaming",
    "ray": "Ray streaming generator",
    "mp_queue": "multiprocessing.Queue",
}
"""Names in the figures, and as they are printed; the module of `x` is `baselines.over_x`."""
