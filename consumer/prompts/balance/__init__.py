"""How often concepts come: which captions speak of them, and sampling that lifts the tail."""
