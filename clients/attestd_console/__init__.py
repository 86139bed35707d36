"""The admin web console: pages that operators look at and act from. It knows the admin API, and nothing else."""
