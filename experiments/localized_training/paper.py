"""What the paper reports: its 25 losses, two accuracies, and its schedule."""

__all__ = ["ACCURACIES", "LOSSES", "PERCENTAGES", "SCHEDULE"]

# By model: the losses on natural images (times 1000), and under the standard, background, exact and broad attack.
LOSSES = {
    "natural": (41.4, 68.1896, 61.7994, 40.1892, 25.2439),
    "standard": (57.9, 0.266, 0.2079, 0.0581, 0.058),
    "background": (39.6, 0.5466, 0.2272, 0.0403, 0.0399),
    "exact": (42.0, 15.1989, 9.5766, 0.0701, 0.0474),
    "broad": (38.7, 23.6828, 16.0611, 0.4276, 0.0808),
}

# In percent, of the natural model: all that the paper says of accuracies.
ACCURACIES = {"natural": 99.19, "exact": 0.08}

# How much less loss than the natural model a model has, in percent (of the price: how much more), as printed.
PERCENTAGES = {
    "broad, natural": 6.5,
    "broad, under attack, least": 65.3,
    "broad, under attack, most": 99.7,
    "standard, price": 39.8,
    "standard, under attack": 99.0,
    "background, natural": 4.4,
    "background, under attack": 99.0,
}

SCHEDULE = {
    "data": "MNIST, 55,000 training images (not stated; as in Madry's code)",
    "natural model": "100,000 steps of 50",
    "adversarial models": "100,000 steps of 50, PGD of 100 steps",
    "step of PGD in training": "not stated; 0.01 in Madry's code",
    "optimiser": "not stated; Adam, rate 0.0001, on the sum over the batch in Madry's code",
    "attacks of the evaluation": "PGD of 100 steps of 0.01 (size not stated), epsilon 0.3, localized after PGD",
    "test images": "10,000 (not stated)",
}
