"""What producers and ranks say to each other: messages, their codec and limits, the two state machines, the sockets.

The state machines take events and the time and return actions; they hold no socket and no clock, so that every order of
events can be tested. The sockets are a thin shell around them. Nothing here imports torch.
"""
