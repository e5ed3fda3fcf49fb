"""Chapter 4: what q does to the activations of a network."""
