"""Shaham, Yamada, Negahban 2015, "Understanding Adversarial Training": robust optimization on MNIST and CIFAR-10."""
