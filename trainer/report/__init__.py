"""One self-contained HTML page of an evaluation."""
