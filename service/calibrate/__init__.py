"""Calibration of feature caching: full runs of a model, and what its calibrated methods need to know of them."""
