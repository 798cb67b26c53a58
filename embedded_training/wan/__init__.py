"""The embedded Wan: a video autoencoder, a base model and its adapter, trained on clips of moving emoji."""
