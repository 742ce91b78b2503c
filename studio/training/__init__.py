"""The training recipe, in the order it is run: corpus, autoencoder, clip, unet, judge."""
