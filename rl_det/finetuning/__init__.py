"""A detector, data and strategies -> better detectors, and an honest table of what each strategy gave."""
