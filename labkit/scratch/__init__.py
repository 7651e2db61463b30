"""The by-hand versions that the labs teach, each tested against the library that the field uses."""
