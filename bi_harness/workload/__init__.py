"""What the engines are given: seeded prompts, and checkpoints made on the spot."""
