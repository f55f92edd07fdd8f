"""Weak models that imitate: sampled answers, data sets, training, packing. Runs outside the
enclave, on text that has already left or that a public model wrote."""
