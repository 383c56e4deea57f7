"""Certificates: what no attack within a radius can change, whatever it tries."""

from advjax.certify.interval import bounds, certified
from advjax.certify.smoothing import ABSTAIN, Certificates, Smoothed, smoothed

__all__ = ["ABSTAIN", "Certificates", "Smoothed", "bounds", "certified", "smoothed"]
