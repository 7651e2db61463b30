"""How fast the course's own ways are, measured in turn against what people would use instead; `make bench` runs it."""
