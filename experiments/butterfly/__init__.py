"""Yoo et al. 2017, "Butterfly Effect": trained perturbations that make a classifier better, or worse."""
