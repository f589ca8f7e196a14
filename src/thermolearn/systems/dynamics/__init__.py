"""Signal propagation and flows along depth: Gaussian pre-activations, relative entropy."""
