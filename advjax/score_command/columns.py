"""The columns of `advjax score`'s table."""

__all__ = ["COLUMNS"]

COLUMNS = {
    "file": "the original, relative to its folder",
    "pass": "SSIM after alignment, at most 1",
    "ssim": "without alignment",
    "l2_per_pixel": "root mean square difference of the pixels, in gray levels (0 to 255)",
    "linf": "largest difference, in gray levels; a whole number for 8-bit pictures",
    "converged": "whether the alignment settled",
    **{f"h{r}{c}": "warp, from pixels of the original to pixels of the changed picture" for r in "012" for c in "012"},
    "padding": "the windows of SSIM in pass and ssim",
    "changed": "the changed picture, relative to its folder",
    "width": "in pixels, upright",
    "height": "in pixels, upright",
    "mode": "of the original, in Pillow's words",
    "changed_mode": "of the changed picture",
    "masked": "share of the pixels that are left out as a border, 0 without --mask-border",
    "notes": "whether a picture was turned upright (EXIF orientation) or is the first of several in its file",
}
"""The columns and what they hold."""
