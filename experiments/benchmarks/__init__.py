"""Parts of `experiments.benchmark`: how to time, what to time, the suites."""
