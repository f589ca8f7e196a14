"""Networks in training and at initialization."""
