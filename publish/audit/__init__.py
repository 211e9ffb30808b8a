"""Published bars against the raw archive: recomputed, compared, reported, repaired."""
