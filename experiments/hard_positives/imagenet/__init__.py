"""Rozsa, Rudd, Boult 2016, section 5.3 and Fig. 3: hard positives for an ImageNet network, and fine-tuning on them."""
