"""History to bars, by the code that live runs on."""
