"""What this host is, and whether it is the device that was named. Neither torch nor vLLM is imported."""
