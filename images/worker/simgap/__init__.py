"""simgap: how much of a CLIP model's accuracy is explained by train-test similarity. See README.md and `simgap --help`."""
