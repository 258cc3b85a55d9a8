"""The page on which a run is looked into: a server on this machine, and panels that fit what its model is."""
