"""The recipe that made the models in ``models/``: scenes, autoencoder, judge, text encoder, UNet."""
