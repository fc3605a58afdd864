"""Read views: what a projection is, applying entries, the worker, rebuilds, retries and skips."""
