"""`headstart probe`: what a model is like, measured on the model alone, without a cache or a judge."""
