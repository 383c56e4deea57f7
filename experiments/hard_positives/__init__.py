"""Rozsa, Rudd, Boult 2016, "Adversarial Diversity and Hard Positive Generation": LeNet on MNIST, sections 2 and 5.2."""
