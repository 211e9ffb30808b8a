"""What this is a version of: the command line shows it, and `/metrics`."""

VERSION = "0.1.0"
