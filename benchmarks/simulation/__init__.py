"""A fleet on paper: the real state machines of ranks and producers, with a simulated clock and network between them.

`RankMachine` and `ProducerMachine` are the ones that every run uses; what stands here is what surrounds them in
`consumer/stream.py` and `producer/service.py`: who hears what when, when an engine is done, when a trainer steps.

What is simulated: latency, a network card for each process in and out, messages of one connection in their order behind
one another, the CPU time that a message costs a rank (measured on this machine: `costs.py`), the ticks, the engine's
batches with their wait for company, a trainer whose ranks step together with one batch prepared ahead, producers that
are lost and replaced (`churn.py`).

What is left out: threads that take each other's time (a rank's training thread and its stream share one interpreter),
packet loss and congestion (a link has its bandwidth or is cut), the reservoir (a step takes groups as they come), what
a filter does, and STATUS with its answer, which decides nothing: only its CPU time and its bytes are counted.
"""
