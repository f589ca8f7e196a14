"""Theory against experiment: the contract, comparison, finite-size scaling, sweeps."""
