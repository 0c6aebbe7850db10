"""Training of heads that judge: from labelled answers a cost model, from preference pairs a reward model."""
