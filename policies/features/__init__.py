"""Feature caching: when to compute, reuse or extrapolate inside the network."""
