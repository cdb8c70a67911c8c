"""What starts programs: options, checks before the start, defaults of a run, test-time augmentation."""
