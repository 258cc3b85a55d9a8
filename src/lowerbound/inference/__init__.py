"""The posterior of one image, found by computing rather than by a network: Hamiltonian Monte Carlo, annealing, and the
best member of a family."""
