"""What stands in a model for one call: swapped modules, low-rank layers, the share of one rank."""
