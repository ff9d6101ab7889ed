"""Samplers at equal numbers of model calls, with their error to the exact solution, as a table and as a page."""

import sys

from noise_scheduler_sampling_system.comparison import compare

comparison = compare(
    ["ddim", "heun", "dpmpp_2m", "unipc", "DPM++ 2M Karras"], nfe=(5, 10, 20), shape=(32, 1, 8, 8), seed=0
)
print(comparison)
print("least error with 10 calls:", comparison.best(10).entry)
if len(sys.argv) > 1:  # e.g. comparison.html
    comparison.save(sys.argv[1])
