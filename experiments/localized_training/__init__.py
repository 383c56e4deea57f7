"""Rothberg, Chen, Ji, "Towards Better Accuracy and Robustness with Localized Adversarial Training": MNIST."""
