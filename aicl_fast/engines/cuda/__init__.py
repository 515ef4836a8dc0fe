"""One GPU without torch: the driver, arrays in its memory, and features there as torch sees them."""
