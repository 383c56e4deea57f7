"""Rozsa, Rudd, Boult 2016, "Adversarial Diversity and Hard Positive Generation": LeNet on MNIST, and ImageNet."""
